//! Looks at the spool's names now and then: one task per core.

use crate::io::clock;
use crate::io::runtime::{blocking, sleep};
use crate::spool::live::shared::Shared;
use crate::spool::presence::{Found, Presence};
use crate::spool::shortage::Lack;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long mail may be taken that is lost already.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The task: runs until the spool has closed.
pub(super) async fn run(shared: Rc<Shared>) {
    loop {
        sleep(LOOK_INTERVAL).await;
        if shared.is_closed() {
            return;
        }
        look(&shared).await;
        shared.check_recovered(clock::now());
    }
}

/// Looks at the names now.
pub(super) async fn look(shared: &Rc<Shared>) {
    let presence: Arc<Presence> = shared.presence.clone();
    let segments = shared.files();
    let Found { lack, spoilt } = blocking(move || presence.look(&segments)).await;
    // Meanwhile the allocator may have removed one, as it should.
    let lost = spoilt
        .iter()
        .filter(|generation| shared.has_file(**generation))
        .count();
    let lack = lack.or_else(|| {
        let text = || format!("{lost} segments that are in use were removed or cut");
        (lost > 0).then(|| Lack::Gone(text()))
    });
    shared.seen(lack);
}
