//! In quiet times: next hops that are not well, and mail for them. It causes few connections, and what one host is slow to
//! answer keeps no other mail waiting.

use crate::link::{End, Received, Tls};
use crate::probe::expect;
use crate::world::{World, sleep};
use ringpost::io::net::{Bound, Listener, Socket};
use ringpost::time::Now;
use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

/// A hop that has just failed is let alone for at least this.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// Longer than a letter may wait behind another one, and less than the relay waits for a final reply.
const SLOW_REPLY: Duration = Duration::from_secs(11);
const LATE_GREETING: Duration = Duration::from_secs(1);
/// Letters that are accepted meanwhile are all there.
const LATER_GREETING: Duration = Duration::from_secs(3);
/// Letters to a slow host but the one that it is slow about are delivered within this.
const DELIVERY_MAX: Duration = Duration::from_secs(8);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ailment {
    /// It closes each connection at once.
    Leaves,
    /// It takes connections, and greets nobody.
    Mute,
    /// It greets late, so that letters wait, and of the first it says late that it has taken it.
    Slow,
    /// None but that it greets late, so that letters wait. It is the relay's disk that is not well.
    Well,
}

const AILMENTS: [Ailment; 4] = [Ailment::Leaves, Ailment::Mute, Ailment::Slow, Ailment::Well];

pub struct Neighbour {
    world: Rc<World>,
    ailment: Ailment,
    /// How many connections may wait for its greeting at once.
    open_max: Cell<usize>,
    open: Cell<usize>,
    last_opened: Cell<Option<Now>>,
    /// So much mail waits for it that it gets several connections at a time.
    is_busy: Cell<bool>,
    connections: Cell<usize>,
    /// All of its letters were accepted by the relay.
    is_all_sent: Cell<bool>,
    letters_begun: Cell<usize>,
    letters_taken: Cell<usize>,
}

impl Ailment {
    pub fn domain(self) -> &'static str {
        match self {
            Ailment::Leaves => "leaves.test",
            Ailment::Mute => "mute.test",
            Ailment::Slow => "slow.test",
            Ailment::Well => "well.test",
        }
    }

    fn address(self) -> IpAddr {
        [10, 1, 2, self as u8 + 1].into()
    }

    fn letters(self) -> usize {
        match self {
            Ailment::Leaves => 1,
            Ailment::Mute => 20,
            Ailment::Slow => 12,
            Ailment::Well => 80,
        }
    }
}

/// For the relay's own list.
pub fn domains() -> String {
    AILMENTS.map(Ailment::domain).join(",")
}

/// One of each, known to the name servers and listening.
pub fn settle(world: &Rc<World>) -> Vec<Rc<Neighbour>> {
    let neighbours = AILMENTS.map(|ailment| {
        let domain = ailment.domain();
        let mut names = world.host.names();
        names.mx(domain, 10, &format!("mx.{domain}"));
        names.host(&format!("mx.{domain}"), ailment.address());
        Rc::new(Neighbour {
            world: world.clone(),
            ailment,
            open_max: Cell::new(usize::MAX),
            open: Cell::default(),
            last_opened: Cell::default(),
            is_busy: Cell::default(),
            connections: Cell::default(),
            is_all_sent: Cell::default(),
            letters_begun: Cell::default(),
            letters_taken: Cell::default(),
        })
    });
    for neighbour in &neighbours {
        let neighbour = neighbour.clone();
        world.spawn(async move { neighbour.listen().await });
    }
    neighbours.into()
}

impl Neighbour {
    /// Sends the relay letters for it, in one session. They come from nobody, so none of them is returned.
    pub async fn send_letters(self: Rc<Self>, end: End, open_max: usize) {
        self.open_max.set(open_max);
        if let Err(complaint) = self.talk(&end).await {
            return self.world.accuse(complaint);
        }
        self.is_all_sent.set(true);
        if self.ailment == Ailment::Slow {
            sleep(&self.world, DELIVERY_MAX).await;
            let (taken, wanted) = (self.letters_taken.get(), self.ailment.letters() - 1);
            if taken < wanted {
                self.world.accuse(format!(
                    "a host is slow about one letter, and of {wanted} others {taken} are there after {DELIVERY_MAX:?}"
                ));
            }
        }
    }

    /// From now on much mail waits for it.
    pub fn gets_busy(&self) {
        self.is_busy.set(true);
    }

    pub fn ailment(&self) -> Ailment {
        self.ailment
    }

    pub fn letters_sent(&self) -> Option<usize> {
        self.is_all_sent.get().then(|| self.ailment.letters())
    }

    pub fn letters_taken(&self) -> usize {
        self.letters_taken.get()
    }

    /// So many were opened to it.
    pub fn connections(&self) -> usize {
        self.connections.get()
    }

    async fn talk(&self, end: &End) -> Result<(), String> {
        let (world, domain) = (&self.world, self.ailment.domain());
        let mut input = Vec::new();
        expect(world, end, &mut input, 220, "the greeting").await?;
        self.say(end, &mut input, "EHLO client.test", 250).await?;
        for number in 0..self.ailment.letters() {
            self.say(end, &mut input, "MAIL FROM:<>", 250).await?;
            let recipient = format!("RCPT TO:<neighbour{number}@{domain}>");
            self.say(end, &mut input, &recipient, 250).await?;
            self.say(end, &mut input, "DATA", 354).await?;
            let content = format!("Subject: {number}\r\n\r\nHello\r\n.");
            self.say(end, &mut input, &content, 250).await?;
        }
        Ok(())
    }

    async fn say(
        &self,
        end: &End,
        input: &mut Vec<u8>,
        text: &str,
        code: u16,
    ) -> Result<(), String> {
        let sent = end.send(format!("{text}\r\n").as_bytes());
        sent.map_err(|_| format!("the relay has gone at {text}"))?;
        expect(&self.world, end, input, code, text).await
    }

    // ---- the host ----

    async fn listen(self: Rc<Self>) {
        let bound = Bound::new(SocketAddr::new(self.ailment.address(), 25));
        let bound = bound.expect("the port is ours");
        bound.listen(64).expect("it listens");
        let listener = Listener::new(bound);
        loop {
            listener.ready().await.expect("it waits");
            while let Ok(Some((descriptor, peer))) = listener.accept() {
                let own = (self.ailment.address(), peer);
                let end = End::new(&self.world, Socket::adopt(descriptor), own, Tls::None);
                let this = self.clone();
                self.world.spawn(async move { this.serve(end).await });
            }
        }
    }

    async fn serve(&self, end: End) {
        self.connections.set(self.connections.get() + 1);
        match self.ailment {
            Ailment::Leaves => self.look_at_pause(),
            Ailment::Mute => {
                self.look_at_crowd();
                let mut input = Vec::new();
                while end.receive(&mut input, Now::NEVER).await != Received::End {}
                self.open.set(self.open.get() - 1);
            }
            Ailment::Slow => _ = self.take_letters(&end, LATE_GREETING).await,
            Ailment::Well => _ = self.take_letters(&end, LATER_GREETING).await,
        }
    }

    fn look_at_pause(&self) {
        let now = self.world.now();
        if let Some(before) = self.last_opened.replace(Some(now))
            && now.since(before) < PAUSE_MIN
            && !self.is_busy.get()
        {
            let pause = now.since(before);
            self.world.accuse(format!(
                "a host that closes each connection gets the next one after {pause:?}"
            ));
        }
    }

    fn look_at_crowd(&self) {
        let open = self.open.get() + 1;
        self.open.set(open);
        let most = self.open_max.get();
        if open > most {
            self.world.accuse(format!(
                "{open} connections wait for a greeting where {most} may"
            ));
        }
    }

    /// `None`: the relay has gone.
    async fn take_letters(&self, end: &End, greets_after: Duration) -> Option<()> {
        let mut input = Vec::new();
        let mut is_content = false;
        sleep(&self.world, greets_after).await;
        end.send(b"220 neighbour.test\r\n").ok()?;
        loop {
            let Some(at) = input.iter().position(|byte| *byte == b'\n') else {
                match end.receive(&mut input, Now::NEVER).await {
                    Received::End => return None,
                    _ => continue,
                }
            };
            let line: Vec<u8> = input.drain(..=at).collect();
            let line = String::from_utf8_lossy(&line);
            let reply = match line.trim_end() {
                "." if is_content => {
                    is_content = false;
                    self.take_letter().await;
                    "250 2.0.0 taken"
                }
                _ if is_content => continue,
                "DATA" => {
                    is_content = true;
                    "354 go on"
                }
                "QUIT" => "221 2.0.0 bye",
                line if line.starts_with("EHLO") => "250-neighbour.test\r\n250 PIPELINING",
                _ => "250 2.0.0 well",
            };
            end.send(format!("{reply}\r\n").as_bytes()).ok()?;
        }
    }

    async fn take_letter(&self) {
        let begun = self.letters_begun.get();
        self.letters_begun.set(begun + 1);
        if begun == 0 && self.ailment == Ailment::Slow {
            return sleep(&self.world, SLOW_REPLY).await;
        }
        self.letters_taken.set(self.letters_taken.get() + 1);
    }
}
