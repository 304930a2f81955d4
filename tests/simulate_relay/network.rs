//! The next hops that there are, and the way to them: name servers, addresses, and who listens there.

use crate::host::{self, Host, Manner};
use crate::link::{End, Tls};
use crate::neighbours::{self, Neighbour};
use crate::sites::Sites;
use crate::world::{World, sleep};
use ringpost::io::net::{Bound, Listener, Socket};
use ringpost::io::simulated::{Manner as ServerManner, Reach};
use ringpost::tls::ServerTls;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;

/// Where all questions go.
pub const NAME_SERVER: &str = "10.9.9.9:53";

pub struct Network {
    world: Rc<World>,
    pub sites: Sites,
    pub neighbours: Vec<Rc<Neighbour>>,
    tls: Option<Rc<ServerTls>>,
    restarted: Notify,
}

fn address_of(host: usize) -> IpAddr {
    [10, 1, 0, host as u8 + 1].into()
}

impl Network {
    pub fn new(world: &Rc<World>, tls: Option<Rc<ServerTls>>) -> Rc<Network> {
        let network = Rc::new(Network {
            world: world.clone(),
            sites: Sites::draw(world),
            neighbours: neighbours::settle(world),
            tls,
            restarted: Notify::new(),
        });
        network.name_hosts();
        for host in 0..network.sites.hosts.len() {
            let network = network.clone();
            world.spawn(async move { network.listen(host).await });
        }
        network
    }

    fn name_hosts(&self) {
        let mut names = self.world.host.names();
        let server = NAME_SERVER.parse().expect("an address");
        names.serve(server, ServerManner::default());
        for (site, hosts) in self.sites.of_site.iter().enumerate() {
            for (place, host) in hosts.iter().enumerate() {
                let name = format!("mx{host}.test");
                names.mx(&format!("d{site}.test"), 10 * (1 + place as u16), &name);
                names.host(&name, address_of(*host));
            }
        }
    }

    // ---- who listens ----

    async fn listen(self: Rc<Self>, number: usize) {
        let (world, host) = (self.world.clone(), self.sites.hosts[number].clone());
        let address = SocketAddr::new(address_of(number), 25);
        self.set_down(number);
        loop {
            while self.is_down(&host) {
                let until = host
                    .down_until
                    .get()
                    .max(world.now() + Duration::from_millis(1));
                let wait = until.since(world.now()).min(Duration::from_secs(1));
                sleep(&world, wait).await;
            }
            world.host.set_reach(address.ip(), None);
            let bound = Bound::new(address).expect("the port is ours");
            bound.listen(64).expect("it listens");
            let listener = Listener::new(bound);
            while !self.is_down(&host) {
                tokio::select! {
                    biased;
                    () = self.restarted.notified() => {}
                    ready = listener.ready() => ready.expect("it waits"),
                }
                self.accept(&listener, &host);
            }
        }
    }

    fn is_down(&self, host: &Host) -> bool {
        match host.manner {
            Manner::Down => !self.world.is_healed.get(),
            Manner::Restarting => self.world.now() < host.down_until.get(),
            _ => false,
        }
    }

    /// Some that are down refuse, others say nothing.
    fn set_down(&self, number: usize) {
        if self.sites.hosts[number].manner == Manner::Down {
            let ways = [None, Some(Reach::Silent), Some(Reach::Unreachable)];
            let reach = *self.world.pick(&ways);
            self.world.host.set_reach(address_of(number), reach);
        }
    }

    fn accept(&self, listener: &Listener, host: &Rc<Host>) {
        while let Ok(Some((descriptor, peer))) = listener.accept() {
            let socket = Socket::adopt(descriptor);
            let is_kind = matches!(
                host.manner,
                Manner::Good | Manner::Spotless | Manner::Restarting
            );
            if !is_kind && !self.world.is_healed.get() && self.world.one_in(8) {
                continue;
            }
            let tls = match &self.tls {
                Some(keys) => Tls::Offered(keys.clone()),
                None => Tls::None,
            };
            let own = address_of(host.number);
            let end = End::new(&self.world, socket, (own, peer), tls);
            let (world, host) = (self.world.clone(), host.clone());
            self.world
                .spawn(async move { host::serve(world, host, end).await });
        }
    }

    /// As [`Sites::restart`], and whoever listens notices.
    pub fn restart(&self) {
        self.sites.restart(&self.world);
        self.restarted.notify_waiters();
    }
}
