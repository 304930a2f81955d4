//! How often each thing happened: a simulation that avoids a path proves nothing about it.

counted! {
    // Clients.
    accepted refused unclear_to_client mail_refused rcpt_refused given_up left_early left_before_250
    // The spool and its disk.
    power_cuts writes_cut write_errors recoveries_cut recovered torn holes
    segments_retired segments_left moves spilled spilled_and_held read_back not_stored disk_full out_of_memory
    // Next hops.
    restarts dribbles sessions_full senders_refused strangers_refused smtputf8_letters
    refused_for_now refused_for_good broken_off silences nonsense hosts_tired unclear_to_relay
    // Delivery.
    connects connects_failed broke idle_ended other_hosts begun_ahead given_back heard_why timed_out
    retries postponed deferred again lookups_failed reports_owed
}
