//! What the relay asks of the host: the ring, its sockets and files, name servers, clocks, chance, threads' CPUs.
//!
//! Promise: nothing above waits, reads or writes, tells the time or draws a random number but through here
//! (`tests/house/layers.rs` watches that).
//! Not here: what bytes mean; and what is read once before the rings start, such as files of flags.

pub mod buffer;
pub mod cpu;
pub mod dns;
pub mod file;
pub mod handed_over;
#[cfg(not(feature = "simulate"))]
mod kernel;
pub mod limits;
pub mod net;
pub mod pool;
#[cfg(feature = "simulate")]
pub mod simulated;
pub mod watch;
pub mod web;
pub mod whole;

#[cfg(all(feature = "simulate", not(debug_assertions)))]
const _: () = assert!(
    option_env!("RINGPOST_SIMULATE_RELEASE").is_some(),
    "a relay with the feature simulate has no disk: it is for tests"
);

#[cfg(not(feature = "simulate"))]
use kernel as host;
#[cfg(feature = "simulate")]
use simulated as host;

pub use host::{clock, fs, interfaces, page_offset, process_id, random, runtime};
use host::{operations, sockets};

/// Of memory, on the hosts that we know.
pub const PAGE_BYTES: usize = 4096;

/// Faults that are put into the relay on purpose, one at a time, to see that a simulation finds them. In any other
/// build there are none, and nothing of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// A failed write of the spool counts as done.
    WriteErrorSwallowed,
    /// After a failed sync the next one is believed.
    SecondSyncBelieved,
    /// An append tells no writer.
    AppendWakesNobody,
    /// A segment whose end could not be written is taken for free.
    FailedRetirementTaken,
    /// A segment is retired although somebody still reads from it.
    ReadersIgnored,
    /// Every other note of a retired segment is lost on its way to another core.
    NotesLost,
    /// Other cores hear that a segment is gone before it is.
    NotesEarly,
    /// Segments of outcomes go without waiting for their messages.
    OutcomesForgotten,
    /// Segments of outcomes go before what is needed of them is durable elsewhere.
    RewritesBelieved,
    /// ... before it is written elsewhere.
    RewrittenEarly,
    /// Messages that are finished are not written again, though they can be found.
    FinishedNotRewritten,
    /// ... of which a copy came to a segment when they were.
    FinishedCopiesNotRewritten,
    /// Of a message that waits it is not written again who is finished.
    RewritesForgetFinished,
    /// What is needed of outcomes is never written again.
    OutcomesNotRewritten,
    /// Old segments of outcomes stay as they are, one more with each restart.
    OutcomesNotFolded,
    /// Old segments of outcomes go before what they say is written elsewhere.
    FoldedEarly,
    /// A copy does not say how its recipients stand.
    CopiesForget,
    /// Every outcome counts as told by all later copies.
    OutcomesCovered,
    /// The segment of a copy may go before that of the original.
    HoldsIgnored,
    /// A segment is used again with the generation and the nonce it had.
    GenerationsRepeated,
    /// The next start is told of direct writes, however this run writes.
    DirectMarkKept,
    /// A run begins without a number of its own.
    RunsNotCounted,
    /// A segment of finished mail is never left for its space.
    SpaceNotLeft,
    /// Mail that was taken, and whose sender had gone, is never let go.
    AbandonedKept,
    /// A core that sleeps is not woken by what another one sends it.
    BellsUnrung,
    /// The place of a connection that could not be opened is not given back.
    WindowsKept,
    /// The schedule is not told of an idle connection that has ended.
    IdleEndsUntold,
    /// Replies are waited for a thousand times as long as they may take.
    RepliesAwaitedForLong,
    /// A connection that breaks behind the content counts as a delivery.
    BrokenIsDelivered,
    /// A deferred job is not tried again in this run.
    DeferredForgotten,
    /// What earlier runs left is not delivered.
    RecoveredForgotten,
    /// The memory of a message is not given back.
    ChargesKept,
    /// Recipients that are done count against the shares all the same.
    SharesKept,
    /// What the last recipient of a way is done with is given back to its share twice.
    SharesGivenBackTwice,
    /// Mail counts against shares once it is accepted, not as it comes in.
    IncomingNotCharged,
    /// Mail that another core took is routed by whatever lists are at hand.
    RulesOfBefore,
    /// What the hosts say that were asked for first counts for all hosts of a domain.
    PartSpeaksForAll,
    /// A mail host of which nothing was heard in time has no address.
    SilenceSpeaksForHost,
    /// Mail waits for what the name servers say of each of a domain's hosts.
    SilentHostHoldsOthers,
    /// What one name server denies without proof is denied, whatever the others may know.
    DenialsBelieved,
    /// The host whose addresses come first is the best.
    FirstHostWins,
    /// 250 is said when the message goes to the spool, whatever comes of that.
    AnsweredEarly,
    /// What a recipient wishes to be told of is forgotten.
    NotifyForgotten,
    /// Recipients are recorded as finished when the content goes out.
    FinishedEarly,
    /// Every other outcome counts as durable, and is not written.
    OutcomesLost,
    /// How the recipients of recovered mail stand is forgotten.
    StatesForgotten,
    /// Reports that are owed on recovered mail are forgotten.
    ReportsForgotten,
    /// Each recipient of a transaction is judged by the reply to the one before.
    RepliesMixedUp,
    /// A job that has waited too long at its hop is let go.
    PostponedForgotten,
    /// Of a content that is read back, pieces but the last are not sent.
    ContentCut,
    /// No mail is too old.
    LifetimesIgnored,
    /// Whatever is refused for now pauses the hop.
    SendersPauseHops,
    /// Of every other recipient of a message nothing is said in the end.
    LastWordsLost,
    /// A report on mail that needs SMTPUTF8 needs it, too.
    ReportsNeedSmtputf8,
    /// Whatever a transaction decides is reported at once, and by itself.
    ReportsUngathered,
    /// A report goes out once more.
    ReportsRepeated,
    /// Who is owed a report that waits for others is forgotten.
    GatheredForgotten,
    /// Recipients that need SMTPUTF8 are reported together with the others.
    FormsMixed,
    /// The content goes back with every report.
    BodiesRepeated,
    /// A hop that cannot be reached is tried three times at once.
    HopsTriedThrice,
    /// As many connections may open to a hop that greets nobody as to any other.
    JoinsUnbounded,
    /// What a hop says of a recipient for good counts as said of all mail that waits there.
    RecipientsSpeakForHops,
    /// Mail waits behind replies that are late, although more connections are allowed.
    ConnectionsNotJoined,
    /// Each octet of a reply gains the host the time for another reply.
    DribblesGainTime,
    /// Mail goes on however many outcomes wait for the disk.
    GateNeverShuts,
    /// Mail that was held for the disk does not go on.
    GateNeverOpens,
    /// What was settled last before the end is not handed over to its home.
    HandOverForgottenAtDrain,
    /// What was settled on its home does not come there.
    OwnHandOverLost,
    /// A home tells that it has recorded what it has only begun to write.
    RecordedEarly,
    /// The next core writes what a home should.
    HomesMistaken,
    /// A look-up that is given up keeps its slot in the line for name servers.
    LookUpSlotKept,
    /// A look-up to which no name server says anything keeps its slot to its end.
    SilentLookUpsKeepSlots,
    /// As many queries may be under way as look-ups ask for.
    QueriesUnbounded,
    /// No look-up has queries of its own: all take from what is there for all.
    QueriesNotKept,
}

/// Whether the relay has this bug.
#[cfg(not(feature = "simulate"))]
pub const fn planted(_: Bug) -> bool {
    false
}

/// Whether the relay has this bug.
#[cfg(feature = "simulate")]
pub fn planted(bug: Bug) -> bool {
    simulated::World::has(bug)
}

/// Whether the relay was ended from outside, so that nothing that goes now is forgotten by it. Without a simulated world
/// nothing goes then.
#[cfg(not(feature = "simulate"))]
pub const fn has_ended() -> bool {
    false
}

/// Whether the relay was ended from outside, so that nothing that goes now is forgotten by it.
#[cfg(feature = "simulate")]
pub fn has_ended() -> bool {
    simulated::World::has_relay_ended()
}

/// Values that each core has for itself.
#[cfg(not(feature = "simulate"))]
macro_rules! core_local {
    ($($values:tt)*) => { std::thread_local! { $($values)* } };
}
/// The same, where one thread plays several cores.
#[cfg(feature = "simulate")]
macro_rules! core_local {
    ($($(#[$about:meta])* static $name:ident: $type:ty = $value:expr;)*) => {
        $($(#[$about])* static $name: crate::io::simulated::PerCore<$type> =
            crate::io::simulated::PerCore::new(|| $value);)*
    };
}
use core_local;
