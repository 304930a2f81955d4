//! From the greeting to the session: EHLO or HELO, and STARTTLS.

use super::{Cause, Client, ClientStep, Features, State, TlsWish};
use crate::domain::Domain;
use crate::smtp::extension::Extension;
use crate::smtp::reply::Reply;
use crate::text;
use std::rc::Rc;

impl Client {
    pub(super) fn on_greeting(&mut self, reply: Reply, out: &mut Vec<u8>) {
        self.greeting = bounded(&reply.lines[0]);
        if !reply.is_positive() {
            self.end_with_quit(refusal(reply), out);
        } else if self.is_ourselves(&reply) {
            self.end_with_quit(Cause::Loop(Rc::new(reply)), out);
        } else {
            self.send_ehlo(out);
        }
    }

    pub(super) fn send_ehlo(&mut self, out: &mut Vec<u8>) {
        self.features = Features::default();
        self.state = State::Ehlo;
        self.hello("EHLO", out);
    }

    fn hello(&self, verb: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(verb.as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.settings.hostname.as_bytes());
        out.extend_from_slice(b"\r\n");
    }

    pub(super) fn on_ehlo(&mut self, reply: Reply, out: &mut Vec<u8>) {
        if reply.is_permanent() {
            // RFC 5321 section 3.2: an old server that does not know EHLO.
            self.state = State::Helo;
            self.hello("HELO", out);
        } else if !reply.is_positive() {
            self.end_with_quit(refusal(reply), out);
        } else if self.is_ourselves(&reply) {
            self.end_with_quit(Cause::Loop(Rc::new(reply)), out);
        } else {
            self.peer_name = bounded(reply.first_word());
            self.features = Features::parse(&reply);
            self.tls_or_session(out);
        }
    }

    pub(super) fn on_helo(&mut self, reply: Reply, out: &mut Vec<u8>) {
        if !reply.is_positive() {
            self.end_with_quit(refusal(reply), out);
        } else if self.is_ourselves(&reply) {
            self.end_with_quit(Cause::Loop(Rc::new(reply)), out);
        } else {
            self.peer_name = bounded(reply.first_word());
            self.tls_or_session(out);
        }
    }

    fn tls_or_session(&mut self, out: &mut Vec<u8>) {
        match self.settings.starttls {
            _ if self.tls => self.enter_session(),
            TlsWish::IfOffered | TlsWish::Required if self.features.has(Extension::StartTls) => {
                self.state = State::StartTls;
                out.extend_from_slice(b"STARTTLS\r\n");
            }
            TlsWish::Required => self.end_with_quit(Cause::TlsUnavailable(None), out),
            TlsWish::Never | TlsWish::IfOffered => self.enter_session(),
        }
    }

    pub(super) fn on_starttls(&mut self, reply: Reply, out: &mut Vec<u8>) {
        if reply.is_positive() {
            self.features = Features::default();
            self.peer_name = Box::default();
            self.state = State::Handshake;
            self.steps.push_back(ClientStep::StartTls);
        } else if self.settings.starttls == TlsWish::Required {
            self.end_with_quit(Cause::TlsUnavailable(Some(Rc::new(reply))), out);
        } else {
            self.starttls_refusal = Some(Rc::new(reply));
            self.enter_session();
        }
    }

    fn enter_session(&mut self) {
        self.state = State::Session;
        self.steps.push_back(ClientStep::Ready);
    }

    fn is_ourselves(&self, reply: &Reply) -> bool {
        let peer = Domain::parse(reply.first_word());
        let own = Domain::parse(&self.settings.hostname);
        self.settings.detect_loop && peer.is_ok() && peer == own
    }
}

fn refusal(reply: Reply) -> Cause {
    let reply = Rc::new(reply);
    match reply.code / 100 {
        4 | 5 => Cause::Refused(reply),
        _ => Cause::Unexpected(reply),
    }
}

fn bounded(text: &str) -> Box<str> {
    text::front(text, Client::NAME_BYTES_MAX).into()
}
