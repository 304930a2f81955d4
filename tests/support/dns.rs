//! A name server for tests: on a loopback port of the system's choice, with records that the test
//! sets, and a count of what was asked. It answers as a recursive server would, by UDP and TCP.
#![allow(dead_code, reason = "every test uses its own part")]

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, MX, NS, SOA};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
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
    NotImp,
    FormErr,
    /// NOERROR, and the names of other servers.
    Referral,
    Silent,
}

impl Failure {
    pub const ALL: [Failure; 6] = [
        Failure::ServFail,
        Failure::Refused,
        Failure::NotImp,
        Failure::FormErr,
        Failure::Referral,
        Failure::Silent,
    ];
}

/// Octets of an answer by UDP to a query without EDNS (RFC 1035 section 2.3.4).
const UDP_BYTES_MAX: usize = 512;

/// Stops when dropped.
pub struct DnsServer {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

struct Zone {
    records: HashMap<Name, Vec<RData>>,
    failures: HashMap<(Name, RecordType), Failure>,
    failure_of_all: Option<Failure>,
    failure_of_edns: Option<Failure>,
    denies_without_soa: bool,
    asked_with_edns: usize,
    ttl: u32,
    negative_ttl: u32,
    delay: Duration,
    asked: Vec<(Name, RecordType)>,
}

impl DnsServer {
    /// TTLs are an hour until set otherwise.
    pub fn start() -> Self {
        let (socket, listener) = bind();
        let address = socket.local_addr().expect("a bound socket");
        let zone = Arc::new(Mutex::new(Zone {
            records: HashMap::new(),
            failures: HashMap::new(),
            failure_of_all: None,
            failure_of_edns: None,
            denies_without_soa: false,
            asked_with_edns: 0,
            ttl: 3600,
            negative_ttl: 3600,
            delay: Duration::ZERO,
            asked: Vec::new(),
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let by_udp = std::thread::spawn({
            let (zone, stop) = (Arc::clone(&zone), Arc::clone(&stop));
            move || serve(&socket, &zone, &stop)
        });
        let by_tcp = std::thread::spawn({
            let (zone, stop) = (Arc::clone(&zone), Arc::clone(&stop));
            move || serve_tcp(&listener, &zone, &stop)
        });
        DnsServer {
            address,
            zone,
            stop,
            threads: vec![by_udp, by_tcp],
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

    /// Every question fails from now on.
    pub fn fail_all(&self, failure: Failure) {
        self.zone().failure_of_all = Some(failure);
    }

    /// Every question with EDNS does.
    pub fn fail_edns(&self, failure: Failure) {
        self.zone().failure_of_edns = Some(failure);
    }

    pub fn deny_without_soa(&self) {
        self.zone().denies_without_soa = true;
    }

    /// How many questions came with EDNS.
    pub fn asked_with_edns(&self) -> usize {
        self.zone().asked_with_edns
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
        let woken_too = TcpStream::connect(self.address);
        if woken.is_ok() && woken_too.is_ok() {
            for thread in self.threads.drain(..) {
                _ = thread.join();
            }
        }
    }
}

/// The same port for both.
fn bind() -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
        let address = socket.local_addr().expect("a bound socket");
        if let Ok(listener) = TcpListener::bind(address) {
            return (socket, listener);
        }
    }
    panic!("no port is free for UDP and TCP");
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
        let Some(mut bytes) = answer(&query, zone) else {
            continue;
        };
        let room = match &query.edns {
            Some(edns) => usize::from(edns.max_payload()),
            None => UDP_BYTES_MAX,
        };
        if bytes.len() > room {
            bytes = truncated(&bytes);
        }
        _ = socket.send_to(&bytes, peer);
    }
}

/// One question after the other of one connection after the other.
fn serve_tcp(listener: &TcpListener, zone: &Mutex<Zone>, stop: &AtomicBool) {
    for stream in listener.incoming() {
        if stop.load(Ordering::Acquire) {
            return;
        }
        let Ok(mut stream) = stream else { continue };
        // A connection that is left open holds up nobody for long.
        _ = stream.set_read_timeout(Some(Duration::from_millis(300)));
        let mut length = [0; 2];
        while stream.read_exact(&mut length).is_ok() {
            let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
            let read = stream.read_exact(&mut query).is_ok();
            let Some(query) = Message::from_vec(&query).ok().filter(|_| read) else {
                break;
            };
            if let Some(bytes) = answer(&query, zone) {
                let length = u16::try_from(bytes.len()).expect("64 KB are enough");
                _ = stream.write_all(&length.to_be_bytes());
                _ = stream.write_all(&bytes);
            }
        }
    }
}

fn answer(query: &Message, zone: &Mutex<Zone>) -> Option<Vec<u8>> {
    let (response, delay) = {
        let mut zone = zone.lock().expect("no test has panicked");
        (zone.respond(query), zone.delay)
    };
    std::thread::sleep(delay);
    response?.to_vec().ok()
}

/// The header and question alone, with TC.
fn truncated(bytes: &[u8]) -> Vec<u8> {
    let whole = Message::from_vec(bytes).expect("our own");
    let mut short = Message::response(whole.metadata.id, whole.metadata.op_code);
    short.metadata.truncation = true;
    short.metadata.recursion_available = true;
    for question in &whole.queries {
        short.add_query(question.clone());
    }
    short.to_vec().expect("a question")
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
        let of_edns = self.failure_of_edns.filter(|_| query.edns.is_some());
        self.asked_with_edns += usize::from(query.edns.is_some());
        let of_name = self.failures.get(&(owner.clone(), record_type)).copied();
        match self.failure_of_all.or(of_edns).or(of_name) {
            None => self.answer(owner, record_type, &mut response),
            Some(failure) => match fail(failure, owner) {
                None => return None,
                Some(Ok(code)) => response.metadata.response_code = code,
                Some(Err(referral)) => _ = response.add_authority(referral),
            },
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
        if self.denies_without_soa {
            return;
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

/// `None`: no answer; else a code, or whom to ask instead.
fn fail(failure: Failure, owner: Name) -> Option<Result<ResponseCode, Record>> {
    let code = match failure {
        Failure::Silent => return None,
        Failure::Referral => {
            let other = RData::NS(NS(name("ns.elsewhere.test")));
            return Some(Err(Record::from_rdata(owner, 3600, other)));
        }
        Failure::ServFail => ResponseCode::ServFail,
        Failure::Refused => ResponseCode::Refused,
        Failure::NotImp => ResponseCode::NotImp,
        Failure::FormErr => ResponseCode::FormErr,
    };
    Some(Ok(code))
}
