//! Name servers of the world, asked as the kernel's side asks real ones. What they know stands in `names`.

use super::names::Manner;
use super::runtime::sleep;
use super::world::{self, World};
use crate::io::dns::{Question, Record, Reply, Settings};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// Records that an answer by UDP has room for without EDNS (512 octets), and with it.
const RECORDS_BY_UDP: usize = 10;
const RECORDS_BY_EDNS: usize = 40;

const NEVER: Duration = Duration::MAX;

/// A name server.
pub struct Server {
    address: SocketAddr,
    settings: Settings,
}

/// All servers of the world.
pub fn configured() -> Vec<SocketAddr> {
    world::current().names().servers()
}

/// Servers at these addresses, whether they are there or not.
pub fn servers(addresses: &[SocketAddr], settings: &Settings) -> Result<Vec<Server>, String> {
    let server = |address: &SocketAddr| Server {
        address: *address,
        settings: settings.clone(),
    };
    Ok(addresses.iter().map(server).collect())
}

impl Server {
    /// Asks, with EDNS or without. Dropped, the question is given up.
    pub async fn ask(&self, question: &Question, edns: bool) -> Reply {
        let name = question.name.to_ascii();
        let world = world::current();
        let _under_way = UnderWay::begin(&world);
        let limit = self.settings.query_timeout;
        let manner = world.names().ask(self.address, &name, question.kind);
        let takes = manner
            .as_ref()
            .map_or(NEVER, |it| time_of_a_query(&world, it));
        sleep(takes.min(limit)).await;
        let (Some(manner), true) = (manner, takes < limit) else {
            return Reply::Silence;
        };
        // As the zone stands now.
        let reply = world.names().reply(&manner, &name, question.kind, edns);
        match reply {
            Reply::Silence => sleep(limit - takes).await,
            Reply::Records { ref records, .. } if !fits(records, edns) => {
                if !manner.has_tcp {
                    return Reply::Failed("connection refused".into());
                }
                sleep(time_of_a_query(&world, &manner).min(limit)).await;
            }
            _ => {}
        }
        reply
    }
}

/// A query until it is answered or given up.
struct UnderWay(Rc<World>);

impl UnderWay {
    fn begin(world: &Rc<World>) -> Self {
        world.names().query_begins();
        UnderWay(world.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.names().query_ends();
    }
}

/// [`NEVER`]: it is lost.
fn time_of_a_query(world: &World, manner: &Manner) -> Duration {
    if world.one_in(manner.loses_one_in) {
        return NEVER;
    }
    let differs = manner.takes.end.saturating_sub(manner.takes.start);
    let more = world.below(differs.as_micros().max(1) as usize);
    manner.takes.start + Duration::from_micros(more as u64)
}

fn fits(records: &[Record], edns: bool) -> bool {
    let most = match edns {
        true => RECORDS_BY_EDNS,
        false => RECORDS_BY_UDP,
    };
    records.len() <= most
}
