//! How often each thing happened: a simulation that avoids a path proves nothing about it.

use ringpost::metrics::Snapshot;

counted! {
    // The world.
    polls simulated_s power_cuts kills drains reloads holds held_for_disk sent_on_full_disk starts recovered hogs handshakes handshakes_failed probes
    // Clients.
    accepted refused unclear_to_client mail_refused rcpt_refused given_up left_early left_before_250
    // Next hops.
    restarts spells dribbles sessions_full senders_refused strangers_refused smtputf8_letters
    refused_for_now refused_for_good broken_off silences nonsense hosts_tired unclear_to_relay
    deliveries repetitions reports reports_of_many for_newcomers
    // What the relay has counted.
    delivered bounced expired dropped deferred reports_delivered reports_deferred bodies_read_back resumed
    connections_failed messages_refused refused_for_share
}

impl Seen {
    /// A run ends.
    pub fn add_counted(&mut self, counted: &Snapshot) {
        self.delivered += counted.delivered;
        self.bounced += counted.bounced;
        self.expired += counted.expired;
        self.dropped += counted.dropped;
        self.deferred += counted.deferred;
        self.reports_delivered += counted.reports_delivered;
        self.reports_deferred += counted.reports_deferred;
        self.bodies_read_back += counted.bodies_read_back;
        self.resumed += counted.handshakes_in_resumed + counted.handshakes_out_resumed;
        self.connections_failed += counted.connections_out_failed;
        self.messages_refused += counted.messages_refused;
        self.refused_for_share += counted.refused_for_share;
    }

    pub fn note_handshake(&mut self, is_done: bool) {
        match is_done {
            true => self.handshakes += 1,
            false => self.handshakes_failed += 1,
        }
    }
}
