//! How long a next hop may take, and which of its replies is waited for.

use super::Connection;
use crate::io::clock;
use crate::io::{Bug, planted};
use crate::smtp::reply::Stage;
use crate::time::Now;
use crate::time::pace::MinRate;
use std::time::Duration;

/// How long a next hop may take (RFC 5321 section 4.5.3.2).
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    pub connect: Duration,
    pub greeting: Duration,
    /// EHLO, STARTTLS, MAIL and RCPT.
    pub command: Duration,
    pub handshake: Duration,
    /// The reply to DATA.
    pub data: Duration,
    /// Each block of the content.
    pub block: Duration,
    /// The content as a whole. `None`: no limit but `block`.
    pub min_rate: Option<MinRate>,
    /// The reply to the content.
    pub final_dot: Duration,
    pub quit: Duration,
    /// While others wait for a connection: each reply up to the content, and each of its blocks.
    pub crowded: Duration,
}

impl Timeouts {
    fn of(&self, stage: Stage) -> Duration {
        match stage {
            Stage::Connect => self.connect,
            Stage::Greeting => self.greeting,
            Stage::Ehlo | Stage::StartTls | Stage::Mail | Stage::Rcpt | Stage::Idle => self.command,
            Stage::Handshake => self.handshake,
            Stage::Data => self.data,
            Stage::Body => self.block,
            Stage::FinalDot => self.final_dot,
            Stage::Quit => self.quit,
        }
    }

    /// The same while others wait for a connection. Before the session stands, the schedule decides; behind
    /// the content a short wait would make doubles.
    fn in_crowd(&self, stage: Stage) -> Option<Duration> {
        match stage {
            Stage::Mail | Stage::Rcpt | Stage::Data | Stage::Body => Some(self.crowded),
            _ => None,
        }
    }
}

/// A deadline, and the one that counts while others wait for a connection.
#[derive(Clone, Copy)]
pub(super) struct Due {
    pub at: Now,
    pub in_crowd: Now,
}

/// Which reply is waited for, and when it must be whole. What comes of it octet by octet or line by line
/// gains no time.
pub(super) struct Awaited {
    pub replies_before: u64,
    pub stage: Stage,
    pub since: Now,
    pub due: Due,
}

/// Defaults of [`Settings`](super::Settings).
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
pub const GREETING_TIMEOUT: Duration = Duration::from_secs(5 * 60);
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(5 * 60);
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);
pub const SEND_TIMEOUT: Duration = Duration::from_secs(3 * 60);
pub const MIN_SEND_RATE: u64 = 1000;
pub const FINAL_REPLY_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// How long the answer to QUIT is waited for: nothing depends on it.
pub const QUIT_TIMEOUT: Duration = Duration::from_secs(5);

impl Connection {
    /// The first reply inside TLS ends the handshake: a server with TLS 1.3 checks our last flight only then, and one that answered EHLO
    /// a moment ago needs no more time now. Where plaintext is allowed, it is as far off as the handshake's end.
    fn time_for(&self, stage: Stage) -> Duration {
        let Timeouts {
            command, handshake, ..
        } = self.context.timeouts;
        let is_first_inside = self.tls.is_some() && !self.client.has_heard();
        match stage {
            Stage::Ehlo if self.may_fall_back && is_first_inside => command.min(handshake),
            stage => self.context.timeouts.of(stage),
        }
    }

    pub(super) fn due(&self, stage: Stage) -> Due {
        let (now, timeouts) = (clock::now(), &self.context.timeouts);
        Due {
            at: match planted(Bug::RepliesAwaitedForLong) {
                true => now + 1000 * self.time_for(stage),
                false => now + self.time_for(stage),
            },
            in_crowd: timeouts
                .in_crowd(stage)
                .map_or(Now::NEVER, |wait| now + wait),
        }
    }

    /// The time for the next reply runs from when it was first waited for.
    pub(super) fn arm_deadline(&mut self) {
        let (replies, stage) = (self.client.replies(), self.client.phase());
        let is_same =
            |awaited: &Awaited| (awaited.replies_before, awaited.stage) == (replies, stage);
        let due = match &self.awaited {
            Some(awaited) if is_same(awaited) && !planted(Bug::DribblesGainTime) => awaited.due,
            _ => {
                let (since, due) = (clock::now(), self.due(stage));
                self.awaited = Some(Awaited {
                    replies_before: replies,
                    stage,
                    since,
                    due,
                });
                due
            }
        };
        self.stream.set_deadlines(due.at, due.in_crowd);
    }
}
