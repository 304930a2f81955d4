//! How often each thing happened: a simulation that avoids a path proves nothing about it.

counted! {
    // The world.
    polls simulated_s power_cuts kills drains reloads holds starts recovered handshakes handshakes_failed probes
    // Clients.
    accepted refused unclear_to_client mail_refused rcpt_refused given_up left_early left_before_250
    // Next hops.
    restarts dribbles sessions_full senders_refused strangers_refused smtputf8_letters
    refused_for_now refused_for_good broken_off silences nonsense hosts_tired unclear_to_relay
    deliveries repetitions reports for_newcomers
}

impl Seen {
    pub fn note_handshake(&mut self, is_done: bool) {
        match is_done {
            true => self.handshakes += 1,
            false => self.handshakes_failed += 1,
        }
    }
}
