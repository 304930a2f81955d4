//! The promises, held against the ledger: whenever something is delivered, reported, or durably done, after every power
//! cut, and at the end.

use crate::bounds::is_anothers;
use crate::ledger::{Answer, Fate, Ledger, Letter, header_of, letter_of, parse_address, site_of};
use crate::told::Report;
use ringpost::message::{BodyType, Envelope, MessageId, Notify, Recipient, Ret};
use ringpost::schedule::outcome::{RecipientState, ReportKind};
use ringpost::time::Now;
use std::time::Duration;

/// A relay that has restarted knows ages by the calendar, which has no less.
const CALENDAR_STEP: Duration = Duration::from_millis(1);

/// A transaction that a next hop took, as it came.
pub struct Taken {
    /// What followed `MAIL FROM:`, and `RCPT TO:` of those that were accepted.
    pub mail: String,
    pub rcpts: Vec<String>,
    /// Without the dots that were stuffed.
    pub content: Vec<u8>,
    pub has_dsn: bool,
    pub has_8bitmime: bool,
}

/// The address within `<>` at the start, and the parameters behind it.
pub fn split_path(argument: &str) -> (&str, &str) {
    let rest = argument.strip_prefix('<').unwrap_or(argument);
    rest.split_once('>').unwrap_or((rest, ""))
}

/// What is said of a recipient in a report.
struct Said {
    index: usize,
    letter: u32,
    failed: bool,
    /// By a next hop.
    diagnostic: String,
}

/// Recipients that a report speaks of.
fn reported(content: &[u8]) -> Vec<Said> {
    let text = String::from_utf8_lossy(content);
    let mut found = Vec::new();
    let mut last = None;
    let mut in_diagnostic = false;
    for line in text.split("\r\n") {
        let is_continued = line.starts_with([' ', '\t']);
        in_diagnostic &= is_continued;
        if let Some(recipient) = line.strip_prefix("Final-Recipient: ") {
            let (_, address) = recipient.split_once(';').unwrap_or_default();
            last = parse_address(address.trim());
        } else if let Some(action) = line.strip_prefix("Action: ")
            && let Some((Some(index), letter)) = last.take()
        {
            found.push(Said {
                index,
                letter,
                failed: action == "failed",
                diagnostic: String::new(),
            });
        } else if line.starts_with("Diagnostic-Code: ") || in_diagnostic {
            in_diagnostic = true;
            let said = found.last_mut();
            said.into_iter()
                .for_each(|said| said.diagnostic += line.trim_start());
        }
    }
    found
}

impl Ledger {
    // ---- a next hop takes something ----

    /// A host of the site has taken this. Complaints.
    pub fn took(&mut self, now: Now, taken: &Taken) -> Vec<String> {
        let (reverse_path, _) = split_path(&taken.mail);
        let is_report = reverse_path.is_empty()
            && taken
                .content
                .windows(30)
                .any(|it| it == b"report-type=delivery-status;\r\n");
        match is_report {
            true => self.took_report(now, taken),
            false => self.took_letter(taken),
        }
    }

    /// The relay was not told, or not clearly, that it was taken: it may come again. Otherwise `is_relayed` if the
    /// host sends no reports.
    pub fn told(&mut self, taken: &Taken, clearly: bool) {
        let (reverse_path, _) = split_path(&taken.mail);
        if reverse_path.is_empty() {
            for said in reported(&taken.content) {
                if let Some(letter) = self.letters.get_mut(&said.letter) {
                    let fates = letter.fates_of(said.index);
                    fates.for_each(|fate| fate.report_is_excused |= !clearly);
                }
            }
        }
        for rcpt in &taken.rcpts {
            if let Some((Some(index), number)) = parse_address(split_path(rcpt).0)
                && let Some(letter) = self.letters.get_mut(&number)
            {
                for fate in letter.fates_of(index) {
                    fate.is_excused |= !clearly;
                    fate.relayed |= clearly && !taken.has_dsn;
                }
            }
        }
    }

    fn took_letter(&mut self, taken: &Taken) -> Vec<String> {
        let mut complaints = Vec::new();
        let Some(number) = letter_of(&taken.content) else {
            return vec!["something was delivered that nobody sent".to_owned()];
        };
        let stats = &mut self.stats;
        let letter = self
            .letters
            .get_mut(&number)
            .expect("nobody makes numbers up");
        match letter.answer {
            Answer::Accepted | Answer::Awaited | Answer::Unclear => {}
            Answer::Refused(_) if letter.may_surface => {}
            answer => complaints.push(format!("letter {number} is delivered, and {answer:?}")),
        }
        if let Some(wrong) = difference(without_trace(&taken.content), &letter.content) {
            complaints.push(format!(
                "letter {number} arrives with another content: {wrong}"
            ));
        }
        if let Err(wrong) = letter.is_mail(taken) {
            complaints.push(format!("letter {number} has another envelope: {wrong}"));
        }
        for rcpt in &taken.rcpts {
            let (path, parameters) = split_path(rcpt);
            let mut known = false;
            for (recipient, fate) in letter.envelope.recipients.iter().zip(&mut letter.fates) {
                if recipient.forward_path.as_str() != path {
                    continue;
                }
                known = true;
                if taken.has_dsn && !is_rcpt(recipient, parameters) {
                    complaints.push(format!("{path} arrives with {parameters}"));
                }
                if fate.deliveries > 0 && !fate.is_excused {
                    complaints.push(format!("{path} is delivered twice, for no reason"));
                }
                if fate.finished {
                    complaints.push(format!("{path} was finished, and is delivered"));
                }
                stats.deliveries += 1;
                stats.repetitions += u64::from(fate.deliveries > 0);
                fate.deliveries += 1;
                fate.is_excused = false;
                fate.passed_on |= taken.has_dsn;
            }
            if !known {
                complaints.push(format!("{path} is no recipient of letter {number}"));
            }
        }
        complaints
    }

    fn took_report(&mut self, now: Now, taken: &Taken) -> Vec<String> {
        let mut complaints = Vec::new();
        let to = split_path(taken.rcpts.first().map_or("", |it| it))
            .0
            .to_owned();
        let reported = reported(&taken.content);
        if reported.is_empty() {
            complaints.push("a report speaks of nobody".to_owned());
        }
        if let Some(first) = reported.first() {
            self.stats.reports_of_many += u64::from(reported.len() > 1);
            let report = Report {
                letter: first.letter,
                spoken: reported.iter().map(|it| (it.index, it.failed)).collect(),
                content: &taken.content,
            };
            complaints.extend(self.told_sender(now, report));
        }
        for said in reported {
            let (index, number, failed) = (said.index, said.letter, said.failed);
            if is_anothers(&said.diagnostic, index, number) {
                let diagnostic = &said.diagnostic;
                complaints.push(format!(
                    "recipient {index} of letter {number} is reported with {diagnostic}"
                ));
            }
            self.stats.reports += 1;
            let Some(letter) = self.letters.get(&number) else {
                complaints.push(format!("a report speaks of letter {number}"));
                continue;
            };
            let name = format!("recipient {index} of letter {number}");
            let reverse_path = letter.envelope.reverse_path.as_ref();
            if reverse_path.is_none_or(|path| path.as_str() != to) {
                complaints.push(format!("{name}: a report goes to {to}"));
            }
            for (recipient, fate) in letter.of(index) {
                let (wanted, true_) = match failed {
                    true => (
                        recipient.wants_failure_report(),
                        self.may_be_returned(now, letter, recipient, fate),
                    ),
                    false => (recipient.wants_success_report(), fate.relayed),
                };
                if !wanted {
                    complaints.push(format!("{name}: a report that nobody asked for"));
                }
                if !true_ {
                    complaints.push(format!("{name}: a report without a reason"));
                }
                if fate.reports.iter().sum::<u32>() > 0 && !fate.report_is_excused {
                    complaints.push(format!("{name}: a second report, for no reason"));
                }
                if fate.finished {
                    complaints.push(format!("{name} was finished, and is reported"));
                }
            }
            let letter = self.letters.get_mut(&number).expect("just seen");
            for fate in letter.fates_of(index) {
                fate.reports[usize::from(!failed)] += 1;
                fate.report_is_excused = false;
            }
        }
        complaints
    }

    // ---- what the relay may say of a recipient ----

    /// There is a reason for returning it.
    fn may_be_returned(
        &self,
        now: Now,
        letter: &Letter,
        recipient: &Recipient,
        fate: &Fate,
    ) -> bool {
        let domain = recipient.forward_path.domain_as_written();
        fate.refused
            || now.since(letter.begun) + CALENDAR_STEP >= self.lifetime
            || self.cannot_be_reached(domain, letter.content.len())
            || letter.needs_smtputf8(recipient) && self.lacks_smtputf8(domain)
    }

    fn lacks_smtputf8(&self, domain: &str) -> bool {
        let site = site_of(domain).and_then(|site| self.sites.get(site));
        site.is_some_and(|site| site.lacks_smtputf8)
    }

    fn cannot_be_reached(&self, domain: &str, bytes: usize) -> bool {
        let Some(site) = site_of(domain).and_then(|site| self.sites.get(site)) else {
            return true;
        };
        // The relay counts its trace header and the dots it stuffed, too.
        let reckoned = bytes as u64 + bytes as u64 / 2 + 1000;
        site.refused_us || site.size_max.is_some_and(|max| reckoned > max)
    }

    /// A report need not arrive: nobody wants it, or it could not be delivered.
    fn report_is_given_up(&self, now: Now, letter: &Letter) -> bool {
        let Some(reverse_path) = &letter.envelope.reverse_path else {
            return true;
        };
        let is_utf8 = reverse_path.needs_smtputf8();
        letter.report_refused
            || is_utf8 && self.lacks_smtputf8(reverse_path.domain_as_written())
            || now.since(letter.begun) + CALENDAR_STEP >= self.report_lifetime
            || self.cannot_be_reached(
                reverse_path.domain_as_written(),
                letter.content.len() + 5000,
            )
    }

    /// The relay may be done with this recipient.
    fn may_be_done(&self, now: Now, letter: &Letter, recipient: &Recipient, fate: &Fate) -> bool {
        let reported = fate.reports.iter().sum::<u32>() > 0;
        if reported || self.report_is_given_up(now, letter) {
            return reported
                || fate.deliveries > 0
                || self.may_be_returned(now, letter, recipient, fate);
        }
        let delivered = fate.deliveries > 0;
        let returned = self.may_be_returned(now, letter, recipient, fate);
        let owes_relayed = fate.relayed && !fate.passed_on && recipient.wants_success_report();
        (delivered && !owes_relayed) || (returned && !recipient.wants_failure_report())
    }

    fn may_stand(
        &self,
        now: Now,
        letter: &Letter,
        index: usize,
        state: &RecipientState,
    ) -> Result<(), String> {
        let (recipient, fate) = (&letter.envelope.recipients[index], &letter.fates[index]);
        let true_ = match state {
            RecipientState::Waiting { .. } => !fate.finished,
            RecipientState::ReportOwed { kind, .. } => {
                let reason = match kind {
                    ReportKind::Failed => self.may_be_returned(now, letter, recipient, fate),
                    ReportKind::Relayed => fate.relayed,
                };
                reason && !fate.finished
            }
            RecipientState::Finished => self.may_be_done(now, letter, recipient, fate),
        };
        match true_ {
            true => Ok(()),
            false => Err(format!(
                "{} stands at {state:?}, but {fate:?}",
                recipient.forward_path
            )),
        }
    }

    // ---- after a power cut ----

    pub fn begin_check(&mut self) {
        for letter in self.letters.values_mut() {
            letter.is_present = false;
        }
    }

    /// The start has found this.
    pub fn found(
        &mut self,
        now: Now,
        id: MessageId,
        envelope: &Envelope,
        states: &[RecipientState],
    ) -> Option<String> {
        let Some(&number) = self.by_id.get(&id) else {
            return Some(format!("{id} is found, and was never received"));
        };
        let letter = self.letter(number);
        letter.is_present = true;
        if letter.answer == Answer::Sending {
            return Some(format!("letter {number} is found before it was sent"));
        }
        if *envelope != letter.envelope {
            let (there, sent) = (envelope, &letter.envelope);
            return Some(format!(
                "letter {number} is found with {there:?}, not {sent:?}"
            ));
        }
        let letter = &self.letters[&number];
        let mut wrong = None;
        for (index, state) in states.iter().enumerate() {
            wrong = wrong.or(self.may_stand(now, letter, index, state).err());
        }
        for (fate, state) in self.letter(number).fates.iter_mut().zip(states) {
            fate.finished |= state.is_finished();
        }
        wrong
    }

    /// All that was accepted and was not found must be done.
    pub fn end_check(&mut self, now: Now) -> Vec<String> {
        let lost = self.lost(now, |letter| !letter.is_present);
        for letter in self.letters.values_mut() {
            let is_done = letter.answer == Answer::Accepted && !letter.is_present;
            let fates = letter.fates.iter_mut();
            fates.for_each(|fate| fate.finished |= is_done);
        }
        lost
    }

    fn lost(&self, now: Now, among: impl Fn(&Letter) -> bool) -> Vec<String> {
        let mut complaints = Vec::new();
        for (number, letter) in &self.letters {
            if letter.answer != Answer::Accepted || !among(letter) {
                continue;
            }
            for index in 0..letter.fates.len() {
                let done = RecipientState::Finished;
                if let Err(wrong) = self.may_stand(now, letter, index, &done) {
                    complaints.push(format!("letter {number} is lost: {wrong}"));
                }
            }
        }
        complaints
    }

    /// Everything has drained.
    pub fn at_the_end(&self, now: Now) -> Vec<String> {
        self.lost(now, |_| true)
    }
}

impl Letter {
    pub fn of(&self, number: usize) -> impl Iterator<Item = (&Recipient, &Fate)> {
        let recipients = self.envelope.recipients.iter().zip(&self.fates);
        recipients.filter(move |(recipient, _)| {
            let local_part = recipient.forward_path.local_part();
            parse_address(local_part).is_some_and(|(who, _)| who == Some(number))
        })
    }

    /// For this recipient: what needs it is not ASCII (RFC 6531 section 3.4), whatever the client asked for.
    fn needs_smtputf8(&self, recipient: &Recipient) -> bool {
        let sender = self.envelope.reverse_path.as_ref();
        recipient.forward_path.needs_smtputf8()
            || sender.is_some_and(|it| it.needs_smtputf8())
            || !header_of(&self.content).is_ascii()
    }

    fn is_mail(&self, taken: &Taken) -> Result<(), String> {
        let (path, parameters) = split_path(&taken.mail);
        let envelope = &self.envelope;
        let sender = envelope.reverse_path.as_ref().map_or("", |it| it.as_str());
        let has = |word: &str| parameters.split(' ').any(|it| it == word);
        let ret = match envelope.ret {
            Some(Ret::Full) => has("RET=FULL"),
            Some(Ret::Headers) => has("RET=HDRS"),
            None => !parameters.contains("RET="),
        };
        let envid = match &envelope.envid {
            Some(envid) => has(&format!("ENVID={envid}")),
            None => !parameters.contains("ENVID="),
        };
        let is_8bit = envelope.body_type == BodyType::EightBitMime;
        let body = has("BODY=8BITMIME") == (is_8bit && taken.has_8bitmime);
        match path == sender && body && (!taken.has_dsn || ret && envid) {
            true => Ok(()),
            false => Err(taken.mail.clone()),
        }
    }
}

fn is_rcpt(recipient: &Recipient, parameters: &str) -> bool {
    let notify = parameters
        .split(' ')
        .find_map(|it| it.strip_prefix("NOTIFY="));
    let orcpt = parameters
        .split(' ')
        .find_map(|it| it.strip_prefix("ORCPT="));
    let wanted = recipient.notify.map(|notify| match notify {
        Notify::NEVER => "NEVER".to_owned(),
        Notify {
            success, failure, ..
        } => {
            let words = [(success, "SUCCESS"), (failure, "FAILURE")];
            let words = words.into_iter().filter(|it| it.0).map(|it| it.1);
            words.collect::<Vec<_>>().join(",")
        }
    });
    notify.map(str::to_owned) == wanted && orcpt == recipient.orcpt.as_deref()
}

/// Without the relay's `Received:`.
fn without_trace(content: &[u8]) -> &[u8] {
    let mut rest = content;
    let mut first = true;
    while first && rest.starts_with(b"Received: ") || !first && rest.starts_with(b"\t") {
        first = false;
        let end = rest.iter().position(|byte| *byte == b'\n');
        rest = &rest[end.map_or(rest.len(), |end| end + 1)..];
    }
    rest
}

fn difference(there: &[u8], sent: &[u8]) -> Option<String> {
    if there == sent {
        return None;
    }
    let same = there
        .iter()
        .zip(sent)
        .take_while(|(one, other)| one == other);
    let at = same.count();
    let around = |content: &[u8]| {
        let part = &content[at.saturating_sub(20)..content.len().min(at + 20)];
        String::from_utf8_lossy(part).into_owned()
    };
    let lengths = (there.len(), sent.len());
    Some(format!(
        "{lengths:?} from {at}: {:?} {:?}",
        around(there),
        around(sent)
    ))
}

/// Wire form to content: the end goes, and dots that were stuffed.
pub fn unstuffed(wire: &[u8]) -> Vec<u8> {
    let lines = wire.split_inclusive(|byte| *byte == b'\n');
    let lines = lines.take_while(|line| *line != b".\r\n");
    lines
        .flat_map(|line| line.strip_prefix(b".").unwrap_or(line))
        .copied()
        .collect()
}
