//! Why a TLS connection cannot go on, in words for an operator.

use std::fmt;

use rustls::{AlertDescription, Error, InvalidMessage, PeerIncompatible, PeerMisbehaved};

/// Why a TLS connection cannot go on. The text is printable and bounded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TlsError {
    /// The peer ended the connection with this alert.
    Alert(Box<str>),
    /// What came is not TLS at all.
    NotTls,
    /// Both sides keep to the rules but have nothing in common. Says what.
    Incompatible(Box<str>),
    /// The peer broke the protocol, or the bytes were changed on the way.
    PeerMisbehaved(Box<str>),
    /// More unfinished input than a session may keep.
    TooMuchUnfinished,
    /// Asked to send before the handshake is done, or after the session ended.
    NotOpen,
    /// Our own configuration or random numbers.
    Ours(Box<str>),
}

/// Bound on the text of a [`TlsError`].
const ERROR_TEXT_CHARS_MAX: usize = 200;

/// What rustls says, without a type of its own, where a client takes no signature that the key of our
/// certificate can make (TLS 1.2).
const NO_SIGNATURE: &str = "incompatible signing key";

/// What our check of a signature says where ring has no algorithm for it.
pub(super) const SHORT_RSA_KEY: &str = "the RSA key of the peer's certificate is too short for the PSS signature that it \
     made: 2,048 bits are needed";

/// A name in the extension that is no host name ends the handshake within the library (alert 47).
const BAD_SERVER_NAME: &str = "the server name (SNI) that the peer asked for is no host name";

/// The library does not say which; of those that peers have been seen to send empty it is this one.
const EMPTY_VALUE: &str = "a field is empty that must not be, such as the server name (SNI)";

impl From<Error> for TlsError {
    fn from(error: Error) -> Self {
        match &error {
            Error::AlertReceived(alert) => TlsError::Alert(format!("{alert:?}").into()),
            Error::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            ) => TlsError::NotTls,
            Error::InvalidMessage(
                InvalidMessage::InvalidServerName | InvalidMessage::IllegalEmptyList("ServerNames"),
            )
            | Error::PeerMisbehaved(PeerMisbehaved::ServerNameMustContainOneHostName) => {
                TlsError::PeerMisbehaved(BAD_SERVER_NAME.into())
            }
            Error::PeerIncompatible(why) => {
                TlsError::Incompatible(describe_incompatibility(why).into())
            }
            Error::General(text) if text == SHORT_RSA_KEY => {
                TlsError::Incompatible(SHORT_RSA_KEY.into())
            }
            Error::InvalidMessage(InvalidMessage::IllegalEmptyValue) => {
                TlsError::PeerMisbehaved(EMPTY_VALUE.into())
            }
            Error::General(text) if text == NO_SIGNATURE => {
                let why = PeerIncompatible::NoSignatureSchemesInCommon;
                TlsError::Incompatible(describe_incompatibility(&why).into())
            }
            Error::General(_) | Error::FailedToGetRandomBytes | Error::FailedToGetCurrentTime => {
                TlsError::Ours(bounded(&error))
            }
            _ => TlsError::PeerMisbehaved(bounded(&error)),
        }
    }
}

fn bounded(error: &Error) -> Box<str> {
    let text = error.to_string();
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .take(ERROR_TEXT_CHARS_MAX)
        .collect::<String>()
        .into()
}

fn describe_incompatibility(why: &PeerIncompatible) -> String {
    use PeerIncompatible as Why;
    let text = match why {
        Why::Tls12NotOffered
        | Why::Tls12NotOfferedOrEnabled
        | Why::ServerDoesNotSupportTls12Or13
        | Why::ServerTlsVersionIsDisabledByOurConfig
        | Why::SupportedVersionsExtensionRequired => {
            "the peer speaks no version of TLS that is spoken here (1.2 and 1.3)"
        }
        Why::NoCipherSuitesInCommon => {
            "no cipher suite in common: ECDHE with AES-GCM or ChaCha20 is spoken here, and it must fit \
             the kind of the certificate, EC or RSA"
        }
        Why::NoKxGroupsInCommon
        | Why::NamedGroupsExtensionRequired
        | Why::KeyShareExtensionRequired => {
            "no key exchange in common: X25519, P-256 and P-384 are spoken here"
        }
        // A hello of TLS 1.0 or 1.1 has no such extension, and this is looked at first.
        Why::SignatureAlgorithmsExtensionRequired => {
            "the peer names no signature scheme, as before TLS 1.2; 1.2 and 1.3 are spoken here"
        }
        Why::NoSignatureSchemesInCommon => {
            "no signature scheme in common: the peer takes none that the key of the certificate can make"
        }
        other => return format!("the peer lacks what is needed here ({other:?})"),
    };
    text.to_owned()
}

/// What an alert mostly means, from whom it is heard in a handshake.
fn meaning(alert: &str) -> Option<&'static str> {
    let is = |description: AlertDescription| {
        description
            .as_str()
            .is_some_and(|name| name.eq_ignore_ascii_case(alert))
    };
    let table: [(&[AlertDescription], &str); 6] = [
        (
            &[
                AlertDescription::HandshakeFailure,
                AlertDescription::InsufficientSecurity,
            ],
            "it has no cipher suite, key exchange or signature in common with this relay, or wants a \
             certificate of it; a host with an RSA certificate and without ECDHE_RSA with AES-GCM, as Windows \
             Server up to 2012 R2, needs an EC certificate",
        ),
        (
            &[AlertDescription::ProtocolVersion],
            "it speaks neither TLS 1.2 nor 1.3",
        ),
        (
            &[AlertDescription::CertificateRequired],
            "it wants a certificate of this relay, which has none to show",
        ),
        (
            &[
                AlertDescription::UnknownCA,
                AlertDescription::BadCertificate,
                AlertDescription::CertificateUnknown,
                AlertDescription::CertificateExpired,
            ],
            "it does not trust the certificate of this relay",
        ),
        (
            &[AlertDescription::UnsupportedCertificate],
            "it cannot use the kind of certificate of this relay",
        ),
        (
            &[AlertDescription::UnrecognisedName],
            "it does not know the name that it was asked for (SNI)",
        ),
    ];
    table
        .iter()
        .find(|(alerts, _)| alerts.iter().any(|description| is(*description)))
        .map(|(_, meaning)| *meaning)
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::Alert(alert) => {
                write!(f, "the peer sent the TLS alert {alert}")?;
                match meaning(alert) {
                    Some(meaning) => write!(f, " ({meaning})"),
                    None => Ok(()),
                }
            }
            TlsError::NotTls => f.write_str("the peer does not speak TLS"),
            TlsError::Incompatible(why) => f.write_str(why),
            TlsError::PeerMisbehaved(why) => write!(f, "TLS broken by peer: {why}"),
            TlsError::TooMuchUnfinished => f.write_str("TLS message of peer too large"),
            TlsError::NotOpen => f.write_str("TLS session not open"),
            TlsError::Ours(why) => write!(f, "TLS failed here: {why}"),
        }
    }
}

impl std::error::Error for TlsError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_in_words() {
        let table = [
            (
                Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon),
                "no cipher suite in common: ECDHE",
            ),
            (
                Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered),
                "the peer speaks no version of TLS",
            ),
            (
                Error::General(NO_SIGNATURE.to_owned()),
                "no signature scheme in common",
            ),
            (
                Error::General(SHORT_RSA_KEY.to_owned()),
                "the RSA key of the peer's certificate is too short",
            ),
            (
                Error::InvalidMessage(InvalidMessage::IllegalEmptyValue),
                "TLS broken by peer: a field is empty",
            ),
            (
                Error::PeerMisbehaved(PeerMisbehaved::ServerNameMustContainOneHostName),
                "TLS broken by peer: the server name (SNI)",
            ),
            (
                Error::AlertReceived(AlertDescription::HandshakeFailure),
                "the peer sent the TLS alert HandshakeFailure (it has no cipher suite",
            ),
            (
                Error::AlertReceived(AlertDescription::CertificateRequired),
                "the peer sent the TLS alert CertificateRequired (it wants a certificate",
            ),
            (
                Error::AlertReceived(AlertDescription::UnknownCA),
                "the peer sent the TLS alert UnknownCA (it does not trust",
            ),
            (
                Error::AlertReceived(AlertDescription::DecodeError),
                "the peer sent the TLS alert DecodeError",
            ),
        ];
        for (error, beginning) in table {
            let told = TlsError::from(error).to_string();
            assert!(told.starts_with(beginning), "{told}");
        }
    }
}
