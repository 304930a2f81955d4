//! Reads again what an operator may have changed, on a thread of its own.
//!
//! However long a disk or a list takes, the control thread serves signals and the service manager meanwhile. One
//! reading is under way at a time.

use super::certificates;
use super::hints;
use super::rules::{self, InForce, Lists};
use super::shared::Shared;
use super::{ErrorContext as _, StartError};
use crate::config::ListFlags;
use crate::policy::list_change::ListChange;
use crate::tls::{ServerKeys, ServerTls};
use std::sync::Arc;
use std::thread;
use tokio::sync::oneshot;

/// What was read.
pub struct Reread {
    pub certificates: Result<NewCertificates, StartError>,
    /// `None`: there is no list to be read.
    pub lists: Option<Result<NewLists, Vec<String>>>,
}

pub struct NewCertificates {
    pub keys: ServerKeys,
    /// One for each core.
    pub of_cores: Vec<ServerTls>,
    /// Why the spare one is that of before.
    pub spare_is_old: Option<StartError>,
}

/// Relay domains, recipients and routes: all of them, since a relay domain may need its route.
pub struct NewLists {
    pub of_domains: ListChange,
    pub of_recipients: ListChange,
    pub of_routes: ListChange,
    /// `None`: they say the same as those in force. Then they are let go of by the thread that has read them.
    pub changed: Option<ChangedLists>,
}

pub struct ChangedLists {
    pub lists: Lists,
    /// All that hold, those that held before too.
    pub hints: Vec<String>,
}

/// At most one reading that is under way.
#[derive(Default)]
pub struct Reader {
    under_way: Option<oneshot::Receiver<Reread>>,
}

impl Reader {
    pub fn is_at_work(&self) -> bool {
        self.under_way.is_some()
    }

    /// What is being read is let go of where it is read. True if there was something.
    pub fn give_up(&mut self) -> bool {
        self.under_way.take().is_some()
    }

    /// Begins to read; what is in force is compared with.
    pub fn begin(&mut self, shared: &Arc<Shared>, before: InForce) {
        let (done, is_done) = oneshot::channel();
        self.under_way = Some(is_done);
        let shared = shared.clone();
        let read = move || {
            let read = read(&shared, &before);
            // Whoever lets go of a list last takes time for it.
            drop(before);
            // Nobody waits any more if the relay stops.
            let _ = done.send(read);
        };
        let thread = thread::Builder::new().name("reread".to_owned());
        // Without a thread `done` is gone, and `Reader::done` says so.
        let _ = thread.spawn(read);
    }

    /// What was read, when that has come to its end; never if none is under way. Nothing is lost if this is given up.
    pub async fn done(&mut self) -> Reread {
        let Some(reading) = &mut self.under_way else {
            return std::future::pending().await;
        };
        let read = reading.await;
        self.under_way = None;
        read.unwrap_or_else(|_| Reread {
            certificates: Err(StartError("there is no thread to read it on".to_owned())),
            lists: Some(Err(vec!["there is no thread to read them on".to_owned()])),
        })
    }
}

fn read(shared: &Shared, before: &InForce) -> Reread {
    let flags = &shared.config.lists;
    Reread {
        certificates: certificates(shared, before),
        lists: (flags.files().next().is_some()).then(|| lists(shared, before)),
    }
}

fn certificates(shared: &Shared, before: &InForce) -> Result<NewCertificates, StartError> {
    let read = certificates::reload(&shared.config, &shared.identity, &before.keys)?;
    let (keys, spare_is_old) = read;
    let keys = keys.keeping_tickets_of(&before.keys);
    let of_cores: Result<Vec<_>, _> = shared.cores().map(|_| rules::core_tls(&keys)).collect();
    let of_cores = of_cores.context("the certificate for clients")?;
    Ok(NewCertificates {
        keys,
        of_cores,
        spare_is_old,
    })
}

fn lists(shared: &Shared, before: &InForce) -> Result<NewLists, Vec<String>> {
    let (settings, routes) = shared.config.lists.read_again()?;
    let lists = Lists::new(&settings, routes, &shared.config.hostname);
    let of_domains = lists.relaying.domains_since(&before.lists.relaying);
    let of_recipients = lists.relaying.recipients_since(&before.lists.relaying);
    let of_routes = lists.routes.since(&before.lists.routes);
    let are_as_before = [of_domains, of_recipients, of_routes]
        .iter()
        .all(ListChange::is_none);
    let changed = (!are_as_before).then(|| {
        let outside = shared.config.listen.is_outside();
        let mut hints = ListFlags::hints(&settings, &lists.routes, outside);
        hints.extend(hints::routes_to_itself(shared, &lists.routes));
        ChangedLists { lists, hints }
    });
    Ok(NewLists {
        of_domains,
        of_recipients,
        of_routes,
        changed,
    })
}
