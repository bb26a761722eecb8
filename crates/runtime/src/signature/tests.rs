use super::*;

use std::path::Path;

/// A file of ed25519 by openssl 3.5, and its public key.
const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\n\
    MC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n-----END PRIVATE KEY-----\n";

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

fn said(path: &Path, e: &crate::Error) -> String {
    e.to_string().strip_prefix(&format!("{}: ", path.display())).unwrap().to_owned()
}

#[test]
fn a_demand_is_met_by_one_of_its_keys_alone() {
    let key = SigningKey::read(file(PRIVATE).path()).unwrap();
    let signature = key.sign(b"manifest");
    assert_eq!(signature.len() as u64, LENGTH);
    let other = VerifyingKey::of_text(
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me",
    );
    let demand = |keys: Vec<VerifyingKey>| Demand { by: "somebody".into(), keys };
    let two = demand(vec![other.clone().unwrap(), key.public()]);
    two.check(b"manifest", Some(&signature)).unwrap();
    assert_eq!(
        two.check(b"manifest2", Some(&signature)).unwrap_err(),
        "is not signed by any of the keys of somebody: hiber.json.sig is another's, or hiber.json was changed"
    );
    let one = demand(vec![other.unwrap()]);
    let error = one.check(b"manifest", Some(&signature)).unwrap_err();
    assert!(error.starts_with("is not signed by the key of somebody: "), "{error}");
    for wrong in [&signature[..63], b""] {
        assert!(two.check(b"manifest", Some(wrong)).is_err());
    }
    let none = two.check(b"manifest", None).unwrap_err();
    assert_eq!(none, "is not signed (there is no hiber.json.sig), and somebody wants a signature");
}

#[test]
fn keys_that_are_none_are_told() {
    let expected = "expected a private key of ed25519 (`openssl genpkey -algorithm ed25519`)";
    for (text, why) in [
        ("", format!("is no key; {expected}")),
        (
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
            format!("is a PUBLIC KEY; {expected}"),
        ),
        (
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            format!("is a key of another kind; {expected}"),
        ),
        (
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "is protected by a passphrase; expected a key without (`openssl pkey` takes it away)".to_owned(),
        ),
    ] {
        let file = file(text);
        assert_eq!(said(file.path(), &SigningKey::read(file.path()).unwrap_err()), why);
    }
    let expected = "expected a public key of ed25519 (`openssl pkey -pubout`, or ssh-ed25519)";
    for (text, why) in [
        ("", format!("is no key; {expected}")),
        (PRIVATE, format!("is a PRIVATE KEY; {expected}")),
        (
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
            format!("is a key of another kind; {expected}"),
        ),
        (
            "ssh-rsa AAAA",
            "is a key of the kind ssh-rsa; expected ssh-ed25519 (`ssh-keygen -t ed25519`)".to_owned(),
        ),
    ] {
        let file = file(text);
        assert_eq!(said(file.path(), &VerifyingKey::read(file.path()).unwrap_err()), why);
    }
}
