//! TLS's reasons, in words that say which end has to be looked at.

use std::time::{Duration, SystemTime};

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription as Alert, CertificateError as Bad, Error};

/// The reason of `e`; `other` is the end that is not this one.
pub(super) fn in_words(e: &Error, other: &str) -> String {
    match e {
        Error::InvalidCertificate(bad) => format!("the certificate of {other} {}", wrong_with_theirs(bad)),
        Error::NoCertificatesPresented => format!("{other} has shown no certificate"),
        Error::AlertReceived(alert) => wrong_with_ours(*alert, other),
        Error::InvalidMessage(_) => format!("{other} does not speak TLS"),
        Error::PeerIncompatible(why) => format!("{other} does not speak TLS 1.3 as this end does ({why:?})"),
        e => format!("TLS with {other}: {e}"),
    }
}

fn wrong_with_theirs(bad: &Bad) -> String {
    match bad {
        // Of another CA by the same name.
        Bad::UnknownIssuer | Bad::BadSignature => "is not of the CA in --ca here".into(),
        Bad::ExpiredContext { not_after, .. } => format!("has expired at {}", date(*not_after)),
        Bad::NotValidYetContext { not_before, .. } => {
            format!("is not valid before {}: is a clock wrong?", date(*not_before))
        }
        Bad::NotValidForNameContext { expected, presented } => {
            let names = if presented.is_empty() { "none".into() } else { presented.join(", ") };
            format!("is not for {}, but for {names}", expected.to_str())
        }
        Bad::InvalidPurpose | Bad::InvalidPurposeContext { .. } => {
            "may not be used for this (its extended key usage)".into()
        }
        bad => format!("cannot be used: {bad}"),
    }
}

fn wrong_with_ours(alert: Alert, other: &str) -> String {
    let refused = |why: &str| format!("{other} refuses the certificate of this end: {why}");
    match alert {
        Alert::UnknownCA | Alert::DecryptError => refused("it is not of the CA in --ca there"),
        Alert::CertificateExpired => refused("it has expired, or is not valid yet"),
        Alert::CertificateRequired => format!("{other} wants a certificate of this end"),
        Alert::UnsupportedCertificate => refused("it may not be used for this (its extended key usage)"),
        Alert::BadCertificate | Alert::CertificateRevoked | Alert::CertificateUnknown => {
            refused(&format!("{alert:?}"))
        }
        Alert::ProtocolVersion | Alert::HandshakeFailure => {
            format!("{other} does not speak TLS 1.3 as this end does")
        }
        alert => format!("{other} has ended TLS: {alert:?}"),
    }
}

fn date(time: UnixTime) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs());
    humantime::format_rfc3339_seconds(time).to_string()
}
