//! A name server for tests: on a loopback port of the system's choice, with records that the test
//! sets, and a count of what was asked. It answers as a recursive server would.
#![allow(dead_code, reason = "every test uses its own part")]

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, MX, SOA};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

const MESSAGE_BYTES_MAX: usize = 4096;
const ALIASES_MAX: usize = 16;

/// What the server does instead of answering.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    ServFail,
    Refused,
    Silent,
}

/// Stops when dropped.
pub struct DnsServer {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Zone {
    records: HashMap<Name, Vec<RData>>,
    failures: HashMap<(Name, RecordType), Failure>,
    ttl: u32,
    negative_ttl: u32,
    delay: Duration,
    asked: Vec<(Name, RecordType)>,
}

impl DnsServer {
    /// TTLs are an hour until set otherwise.
    pub fn start() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
        let address = socket.local_addr().expect("a bound socket");
        let zone = Arc::new(Mutex::new(Zone {
            records: HashMap::new(),
            failures: HashMap::new(),
            ttl: 3600,
            negative_ttl: 3600,
            delay: Duration::ZERO,
            asked: Vec::new(),
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (zone, stop) = (Arc::clone(&zone), Arc::clone(&stop));
            move || serve(&socket, &zone, &stop)
        });
        DnsServer {
            address,
            zone,
            stop,
            thread: Some(thread),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `host` may be `.`: the null MX.
    pub fn mx(&self, domain: &str, preference: u16, host: &str) {
        self.add(domain, RData::MX(MX::new(preference, name(host))));
    }

    /// An A or AAAA record.
    pub fn host(&self, host: &str, address: &str) {
        let data = match address.parse().expect("an address") {
            IpAddr::V4(ip) => RData::A(A(ip)),
            IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
        };
        self.add(host, data);
    }

    pub fn cname(&self, alias: &str, target: &str) {
        self.add(alias, RData::CNAME(CNAME(name(target))));
    }

    pub fn add(&self, owner: &str, data: RData) {
        let mut zone = self.zone();
        zone.records.entry(name(owner)).or_default().push(data);
    }

    /// Forgets all records and failures of a name.
    pub fn remove(&self, owner: &str) {
        let mut zone = self.zone();
        zone.records.remove(&name(owner));
        zone.failures
            .retain(|(failing, _), _| *failing != name(owner));
    }

    pub fn fail(&self, owner: &str, record_type: RecordType, failure: Failure) {
        let key = (name(owner), record_type);
        self.zone().failures.insert(key, failure);
    }

    pub fn set_ttl(&self, seconds: u32) {
        let mut zone = self.zone();
        zone.ttl = seconds;
        zone.negative_ttl = seconds;
    }

    /// How long each answer takes from now on; one at a time.
    pub fn delay(&self, delay: Duration) {
        self.zone().delay = delay;
    }

    /// How often this was asked, whatever the answer.
    pub fn asked(&self, owner: &str, record_type: RecordType) -> usize {
        let wanted = (name(owner), record_type);
        let zone = self.zone();
        zone.asked.iter().filter(|asked| **asked == wanted).count()
    }

    pub fn asked_in_all(&self) -> usize {
        self.zone().asked.len()
    }

    fn zone(&self) -> MutexGuard<'_, Zone> {
        self.zone.lock().expect("the server has not panicked")
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let waker = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
        let woken = waker.and_then(|socket| socket.send_to(&[], self.address));
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            _ = thread.join();
        }
    }
}

fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).expect("a name").to_lowercase();
    name.set_fqdn(true);
    name
}

fn serve(socket: &UdpSocket, zone: &Mutex<Zone>, stop: &AtomicBool) {
    let mut buffer = [0; MESSAGE_BYTES_MAX];
    loop {
        let received = socket.recv_from(&mut buffer);
        if stop.load(Ordering::Acquire) {
            return;
        }
        let Ok((length, peer)) = received else {
            continue;
        };
        let Ok(query) = Message::from_vec(&buffer[..length]) else {
            continue;
        };
        let (response, delay) = {
            let mut zone = zone.lock().expect("no test has panicked");
            (zone.respond(&query), zone.delay)
        };
        std::thread::sleep(delay);
        if let Some(bytes) = response.and_then(|response| response.to_vec().ok()) {
            _ = socket.send_to(&bytes, peer);
        }
    }
}

impl Zone {
    fn respond(&mut self, query: &Message) -> Option<Message> {
        let question = query.queries.first()?;
        let owner = question.name().to_lowercase();
        let record_type = question.query_type();
        self.asked.push((owner.clone(), record_type));
        let mut response = Message::response(query.metadata.id, query.metadata.op_code);
        response.metadata.recursion_desired = true;
        response.metadata.recursion_available = true;
        response.add_query(question.clone());
        match self.failures.get(&(owner.clone(), record_type)) {
            Some(Failure::Silent) => return None,
            Some(Failure::ServFail) => response.metadata.response_code = ResponseCode::ServFail,
            Some(Failure::Refused) => response.metadata.response_code = ResponseCode::Refused,
            None => self.answer(owner, record_type, &mut response),
        }
        Some(response)
    }

    fn answer(&self, mut owner: Name, record_type: RecordType, response: &mut Message) {
        for _ in 0..ALIASES_MAX {
            let Some(records) = self.records.get(&owner) else {
                let exists = self.records.keys().any(|other| owner.zone_of(other));
                return self.deny(exists, response);
            };
            let mut target = None;
            let mut found = false;
            for data in records {
                if let RData::CNAME(alias) = data {
                    target = Some(alias.0.clone());
                } else if data.record_type() != record_type {
                    continue;
                }
                found = true;
                response.add_answer(Record::from_rdata(owner.clone(), self.ttl, data.clone()));
            }
            match target {
                Some(target) => owner = target,
                None if found => return,
                None => return self.deny(true, response),
            }
        }
    }

    fn deny(&self, exists: bool, response: &mut Message) {
        if !exists {
            response.metadata.response_code = ResponseCode::NXDomain;
        }
        let soa = SOA::new(
            name("ns.test"),
            name("root.test"),
            1,
            1,
            1,
            1,
            self.negative_ttl,
        );
        response.add_authority(Record::from_rdata(
            name("test"),
            self.negative_ttl,
            RData::SOA(soa),
        ));
    }
}
