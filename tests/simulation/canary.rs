//! Planted bugs: ways in which the simulation itself is made wrong, to see that it notices.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Canary {
    None,
    /// 250 is said when the message is handed to the spool.
    AnswersEarly,
    /// The disk says yes to a commit of messages and, now and then, writes nothing.
    WritesVanish,
    /// Recipients are recorded as finished when the content goes out, not when the reply comes.
    SettlesEarly,
    /// An outcome is taken for durable and was never written.
    LosesOutcomes,
    /// A report that was owed when the power went is owed to nobody afterwards.
    ForgetsReports,
    /// NOTIFY=NEVER counts for nothing.
    ReportsDespiteNever,
    /// The verdicts of one transaction are given to the next one of the connection.
    MixesUpReplies,
    /// All recipients of recovered mail are as if it had just come in.
    ForgetsWhoIsFinished,
    /// A job that has waited too long at its hop is dropped.
    DropsPostponed,
    /// A deferred job goes on with the content of another.
    MixesUpContent,
    /// The queue's memory is not given back.
    LeaksMemory,
    /// Mail is tried for ever.
    NeverExpires,
    /// What one recipient is told when the connection breaks is what all hear that wait for the hop.
    RecipientSpeaksForAll,
    /// A sender that a host does not like today pauses the hop.
    SenderPausesAll,
    /// A report on mail that needs SMTPUTF8 needs it, too.
    ReportsNeedSmtputf8,
    /// A hop that cannot be reached is tried three times at once, for one mail.
    TriesThrice,
    /// Connections to a hop that greets nobody are joined by others up to its largest window.
    JoinsWithoutLimit,
    /// A job that was begun ahead waits for the message before it, however long that takes.
    KeepsAhead,
    /// A job is taken ahead while another one waits that was.
    TakesTwoAhead,
}

impl Canary {
    pub const ALL: [Canary; 19] = [
        Canary::AnswersEarly,
        Canary::WritesVanish,
        Canary::SettlesEarly,
        Canary::LosesOutcomes,
        Canary::ForgetsReports,
        Canary::ReportsDespiteNever,
        Canary::MixesUpReplies,
        Canary::ForgetsWhoIsFinished,
        Canary::DropsPostponed,
        Canary::MixesUpContent,
        Canary::LeaksMemory,
        Canary::NeverExpires,
        Canary::RecipientSpeaksForAll,
        Canary::SenderPausesAll,
        Canary::ReportsNeedSmtputf8,
        Canary::TriesThrice,
        Canary::JoinsWithoutLimit,
        Canary::KeepsAhead,
        Canary::TakesTwoAhead,
    ];
}
