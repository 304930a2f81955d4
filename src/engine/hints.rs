//! What works but is probably not meant, as far as it is known at the start only.

use super::placement::CoreSpec;
use super::plan;
use super::shared::Shared;
use crate::config::{Bytes, SpoolConfig};
use crate::io::file::{existing_part, total_bytes_blocking};
use crate::remote::route::NextHop;

/// For the log, and for `--check`.
pub fn hints(shared: &Shared) -> Vec<String> {
    let mut hints = routes_to_itself(shared);
    hints.extend(small_file_system(&shared.config.spool, &shared.specs));
    hints
}

fn routes_to_itself(shared: &Shared) -> Vec<String> {
    let own = shared.own_names();
    let leads_here = |next_hop: &NextHop| match next_hop {
        NextHop::Address(address) => own.is_own_address(*address),
        NextHop::Mx { domain, .. } => own.is_own_name(domain.as_str()),
        NextHop::Host { host, .. } => own.is_own_name(host.as_str()),
    };
    let routes = shared.routes.next_hops();
    let mut places: Vec<&str> = routes
        .filter(|(next_hop, _)| leads_here(next_hop))
        .map(|(_, place)| place)
        .collect();
    places.sort_unstable();
    let told =
        |place| format!("{place}: this route leads back to this relay: mail for it is refused");
    places.into_iter().map(told).collect()
}

/// As [`crate::spool::Settings::check`] demands of a given size, of the file system where none is given.
fn small_file_system(config: &SpoolConfig, specs: &[CoreSpec]) -> Option<String> {
    let settings = plan::spool_settings(config);
    let threads = plan::number_of(specs);
    let least = settings.spool_bytes_min(threads);
    let wanted = least.saturating_add(settings.keep_free_bytes);
    let total = total_bytes_blocking(existing_part(&config.dir)).ok()?;
    (config.bytes_max.is_none() && total < wanted).then(|| {
        format!(
            "the file system of the spool has {} and {threads} threads need {}: mail may be refused for want \
             of space (452); fewer threads, a smaller --segment-size or a larger file system",
            Bytes(total),
            Bytes(wanted),
        )
    })
}
