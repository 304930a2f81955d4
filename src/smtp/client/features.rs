//! What an EHLO reply offers (RFC 5321 section 4.1.1.1).

use crate::smtp::extension::{Extension, Extensions};
use crate::smtp::reply::Reply;

/// What a peer offers. Nothing after HELO.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    extensions: Extensions,
    /// The parameter of `SIZE` (RFC 1870), in bytes. `Some(0)`: offered without a fixed limit.
    pub size: Option<u64>,
    pub limits: Limits,
}

/// `LIMITS` (RFC 9422). None of them is 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// `MAILMAX`: MAIL commands of one session.
    pub mail_max: Option<u32>,
    /// `RCPTMAX`: recipients of one transaction.
    pub rcpt_max: Option<u32>,
    /// `RCPTDOMAINMAX`: domains of the recipients of one transaction.
    pub rcpt_domain_max: Option<u32>,
}

impl Features {
    /// Reads the lines after the first, which names the host. Keywords count in any case, also
    /// with `=` for the space (`AUTH=LOGIN`); what is unknown (`X-ANONYMOUSTLS`, `XEXCH50`) is
    /// passed over.
    pub fn parse(reply: &Reply) -> Self {
        let mut features = Features::default();
        for line in reply.lines.iter().skip(1) {
            features.keyword_line(line);
        }
        features
    }

    fn keyword_line(&mut self, line: &str) {
        let line = line.trim();
        let end = line.find([' ', '=']).unwrap_or(line.len());
        let parameters = line[end..].trim_start_matches([' ', '=']);
        let Some(extension) = Extension::of_keyword(&line[..end]) else {
            return;
        };
        self.extensions = self.extensions.with(extension);
        match extension {
            Extension::Size => self.size = Some(size_limit(parameters)),
            Extension::Limits => self.limits = Limits::parse(parameters),
            _ => {}
        }
    }

    pub fn has(&self, extension: Extension) -> bool {
        self.extensions.has(extension)
    }
}

impl Limits {
    /// What cannot be read is no limit: the peer says at the command what it will not take.
    fn parse(parameters: &str) -> Limits {
        let mut limits = Limits::default();
        for parameter in parameters.split_whitespace() {
            let Some((name, value)) = parameter.split_once('=') else {
                continue;
            };
            let value = value.parse().ok().filter(|&limit| limit > 0);
            match name.to_ascii_uppercase().as_str() {
                "MAILMAX" => limits.mail_max = value,
                "RCPTMAX" => limits.rcpt_max = value,
                "RCPTDOMAINMAX" => limits.rcpt_domain_max = value,
                _ => {}
            }
        }
        limits
    }
}

/// No number, or one that cannot be read, is no limit: the peer says at MAIL what it will not take.
fn size_limit(parameters: &str) -> u64 {
    parameters
        .split_whitespace()
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lines: &str) -> Features {
        Features::parse(&Reply::new(250, &format!("host.test Hello\n{lines}")))
    }

    #[test]
    fn exchange_keywords() {
        let features = parse(
            "SIZE 37748736\nPIPELINING\nDSN\nENHANCEDSTATUSCODES\nSTARTTLS\nX-ANONYMOUSTLS\nAUTH NTLM\n\
             X-EXPS GSSAPI NTLM\n8BITMIME\nBINARYMIME\nCHUNKING\nXEXCH50\nSMTPUTF8\nXRDST\nXSHADOWREQUEST",
        );
        assert_eq!(
            features,
            Features {
                extensions: Extensions::OURS,
                size: Some(37_748_736),
                limits: Limits::default(),
            }
        );
    }

    #[test]
    fn odd_spellings() {
        assert_eq!(parse("size").size, Some(0));
        assert_eq!(parse("SIZE 0").size, Some(0));
        assert_eq!(parse("Size=1000").size, Some(1000));
        assert_eq!(parse("SIZE lots").size, Some(0));
        assert_eq!(parse("SIZE 99999999999999999999999").size, Some(0));
        assert!(parse("  StartTLS  ").has(Extension::StartTls));
        assert_eq!(
            parse("AUTH=LOGIN\nAUTH LOGIN\nSTARTTLSX\n8BIT\n\n=\n "),
            Features::default()
        );
        assert_eq!(
            Features::parse(&Reply::new(250, "STARTTLS")),
            Features::default(),
            "the first line names the host"
        );
    }

    #[test]
    fn limits_of_rfc_9422() {
        let features = parse("limits MAILMAX=100 rcptmax=20 RCPTDOMAINMAX=1 X= =1 MAILMAX");
        let limits = Limits {
            mail_max: Some(100),
            rcpt_max: Some(20),
            rcpt_domain_max: Some(1),
        };
        assert_eq!(features.limits, limits);
        for none in [
            "LIMITS",
            "LIMITS RCPTMAX=0 MAILMAX=-1 RCPTDOMAINMAX=99999999999",
        ] {
            assert_eq!(parse(none).limits, Limits::default(), "{none}");
        }
    }

    #[test]
    fn unknown_keywords_do_not_hide_known_ones() {
        let many: String = (0..100).map(|n| format!("X-KEYWORD-{n} a b\n")).collect();
        let long = format!("X-LONG {}\n", "x".repeat(900));
        let odd = "\n \n=\n\u{e4}\u{f6}\u{fc}\n\u{fffd}=\n-\n250\n";
        let features = parse(&format!("SIZE 5\n{many}{long}{odd}PIPELINING\nSTARTTLS"));
        assert!(features.has(Extension::StartTls) && features.has(Extension::Pipelining));
        assert_eq!(features.size, Some(5));
    }
}
