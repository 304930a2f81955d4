//! In quiet times: a letter to a site without fault. Each command is answered soon, and the letter gets there soon.

use crate::ledger::{Answer, Ledger};
use crate::link::{End, Received};
use crate::world::{World, sleep};
use ringpost::message::{Envelope, Mailbox, Recipient};
use std::rc::Rc;
use std::time::Duration;

/// A command is answered within this.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// A letter that was accepted is delivered, or returned, within this.
const DELIVERY_MAX: Duration = Duration::from_secs(8);

const DOMAIN: &str = "d0.test";

/// Sends one letter. A complaint if the relay is slow.
pub async fn send(world: Rc<World>, end: End) {
    world.seen.borrow_mut().probes += 1;
    match talk(&world, &end).await {
        Ok(number) => await_delivery(&world, number).await,
        Err(complaint) => world.accuse(complaint),
    }
}

async fn talk(world: &World, end: &End) -> Result<u32, String> {
    let sender = |number: u32| format!("s.l{number}@{DOMAIN}");
    let number = begin(&mut world.ledger.borrow_mut(), world);
    let address = format!("r0.l{number}@{DOMAIN}");
    let content = format!("X-Letter: {number}\r\nSubject: probe {number}\r\n\r\nHello\r\n");
    let mut input = Vec::new();
    expect(world, end, &mut input, 220, "the greeting").await?;
    for (command, code) in [
        ("EHLO probe.test".to_owned(), 250),
        (format!("MAIL FROM:<{}>", sender(number)), 250),
        (format!("RCPT TO:<{address}>"), 250),
        ("DATA".to_owned(), 354),
    ] {
        let sent = end.send(format!("{command}\r\n").as_bytes());
        sent.map_err(|_| format!("the relay has gone at {command}"))?;
        expect(world, end, &mut input, code, &command).await?;
    }
    let recipient = Recipient::new(Mailbox::new(&format!("r0.l{number}"), DOMAIN));
    world
        .ledger
        .borrow_mut()
        .recipient_accepted(number, recipient);
    world
        .ledger
        .borrow_mut()
        .ended(number, content.clone().into_bytes());
    let sent = end.send(format!("{content}.\r\n").as_bytes());
    sent.map_err(|_| "the relay has gone at a probe's content".to_owned())?;
    expect(world, end, &mut input, 250, "the end of the data").await?;
    let now = world.wall_time();
    let mut ledger = world.ledger.borrow_mut();
    match ledger.answered(now, number, Answer::Accepted) {
        Some(complaint) => Err(complaint),
        None => Ok(number),
    }
}

fn begin(ledger: &mut Ledger, world: &World) -> u32 {
    let number = ledger.begin(Envelope::default(), world.now());
    let sender = Mailbox::new(&format!("s.l{number}"), DOMAIN);
    ledger.letter(number).envelope.reverse_path = Some(sender);
    number
}

/// The next whole reply, in time and with this code.
pub async fn expect(
    world: &World,
    end: &End,
    input: &mut Vec<u8>,
    wanted: u16,
    to: &str,
) -> Result<(), String> {
    let since = world.now();
    loop {
        while let Some(at) = input.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = input.drain(..=at).collect();
            if line.get(3) == Some(&b'-') {
                continue;
            }
            let text = String::from_utf8_lossy(&line).into_owned();
            return match text.starts_with(&wanted.to_string()) {
                true => Ok(()),
                false => Err(format!("in quiet times {to} is answered with {text}")),
            };
        }
        match end.receive(input, since + ANSWER_MAX).await {
            Received::Bytes => {}
            Received::End => return Err(format!("in quiet times the relay leaves at {to}")),
            Received::TimedOut => {
                return Err(format!(
                    "in quiet times {to} is not answered in {ANSWER_MAX:?}"
                ));
            }
        }
    }
}

async fn await_delivery(world: &World, number: u32) {
    let since = world.now();
    loop {
        let is_there = {
            let mut ledger = world.ledger.borrow_mut();
            let fates = &ledger.letter(number).fates;
            fates.iter().all(|fate| fate.deliveries > 0 || fate.refused)
        };
        if is_there {
            return;
        }
        if world.now().since(since) > DELIVERY_MAX {
            return world.accuse(format!(
                "in quiet times letter {number} to a host without fault is not there after {DELIVERY_MAX:?}"
            ));
        }
        sleep(world, Duration::from_millis(50)).await;
    }
}
