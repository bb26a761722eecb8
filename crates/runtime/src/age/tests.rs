//! Files as they should be, and others. tests/criu/archives_encrypted.rs has the program itself beside this.

use std::io::Read;

use super::*;

/// A key of age-keygen's, and its recipient.
const SECRET: &str = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX";
const RECIPIENT: &str = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";

fn identities(text: &str) -> Result<Identities, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let mut all = Identities::default();
    all.add_file(file.path()).map(|()| all).map_err(|e| {
        let text = e.to_string();
        text.strip_prefix(&format!("{}: ", file.path().display())).unwrap().to_owned()
    })
}

fn ours() -> Identities {
    identities(SECRET).unwrap()
}

fn sealed(content: &[u8], to: &[&str]) -> Vec<u8> {
    let mut recipients = Recipients::default();
    to.iter().for_each(|one| recipients.add(one).unwrap());
    let mut sealer = encrypt(Vec::new(), &recipients).unwrap();
    // In parts that fit into no chunk.
    content.chunks(50_000).for_each(|part| sealer.write_all(part).unwrap());
    sealer.finish().unwrap()
}

fn opened(file: &[u8], keys: &Identities) -> Result<Vec<u8>, String> {
    let mut content = Vec::new();
    let read = decrypt(file, keys).and_then(|mut opener| opener.read_to_end(&mut content));
    read.map(|_| content).map_err(|e| e.to_string())
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n / 3) as u8).collect()
}

const CHUNK: usize = 64 << 10;

#[test]
fn what_is_sealed_comes_back() {
    for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 200_000] {
        let file = sealed(&content(length), &[RECIPIENT]);
        assert!(file.starts_with(b"age-encryption.org/v1\n-> X25519 "));
        assert!(opened(&file, &ours()).unwrap() == content(length), "{length}");
    }
    let file = sealed(b"x", &[RECIPIENT]);
    assert_ne!(file, sealed(b"x", &[RECIPIENT]));
}

#[test]
fn each_change_and_each_cut_is_told() {
    let file = sealed(&content(2 * CHUNK), &[RECIPIENT]);
    let body = file.len() - 2 * (CHUNK + 16);
    for place in 0..body {
        let mut changed = file.clone();
        changed[place] ^= 1;
        opened(&changed, &ours()).unwrap_err();
    }
    for (place, why) in [
        (body, "is encrypted, and was changed: chunk 0 of 64 KiB is not what was written"),
        (file.len() - 1, "is encrypted, and was changed: chunk 1 of 64 KiB is not what was written"),
    ] {
        let mut changed = file.clone();
        changed[place] ^= 1;
        assert_eq!(opened(&changed, &ours()).unwrap_err(), why);
    }
    for length in 0..body {
        assert_eq!(opened(&file[..length], &ours()).unwrap_err(), "is encrypted, and truncated", "{length}");
    }
    // At the end of a chunk, too.
    for length in [body, body + 10, body + CHUNK + 16, file.len() - CHUNK - 16] {
        assert_eq!(opened(&file[..length], &ours()).unwrap_err(), "is encrypted, and truncated", "{length}");
    }
    for length in [body + 100, file.len() - 1] {
        let error = opened(&file[..length], &ours()).unwrap_err();
        assert!(error.starts_with("is encrypted, and truncated, or was changed: chunk "), "{error}");
    }
    let longer = [&file[..], b"x"].concat();
    assert_eq!(
        opened(&longer, &ours()).unwrap_err(),
        "is encrypted, and was changed: chunk 1 of 64 KiB is not what was written"
    );
    // Chunks in another order.
    let mut turned = file.clone();
    turned[body..].rotate_left(CHUNK + 16);
    opened(&turned, &ours()).unwrap_err();
}

#[test]
fn those_who_are_no_recipients_open_nothing() {
    let other =
        identities("AGE-SECRET-KEY-184JMZMVQH3E6U0PSL869004Y3U2NYV7R30EU99CSEDNPH02YUVFSZW44VU").unwrap();
    let file = sealed(b"x", &[RECIPIENT]);
    assert_eq!(
        opened(&file, &other).unwrap_err(),
        "is encrypted to others: none of the keys of --identity opens it (its recipients: X25519)"
    );
    assert_eq!(
        opened(&file, &Identities::default()).unwrap_err(),
        "is encrypted; name a file with your key by --identity"
    );
    // One of several is enough, on both sides.
    let both = identities(&format!(
        "# two\n\nAGE-SECRET-KEY-184JMZMVQH3E6U0PSL869004Y3U2NYV7R30EU99CSEDNPH02YUVFSZW44VU\n{SECRET}\n"
    ));
    assert_eq!(opened(&file, &both.unwrap()).unwrap(), b"x");
}

#[test]
fn headers_that_are_none_are_told() {
    let head = |text: &str| opened(text.as_bytes(), &ours()).unwrap_err();
    let says = |text: &str, why: &str| assert_eq!(head(text), format!("is encrypted, and its header {why}"));
    let (first, end) = ("age-encryption.org/v1\n", format!("--- {}\n", "A".repeat(43)));
    says("age-encryption.org/v2\n", "says \"age-encryption.org/v2\"; expected age-encryption.org/v1");
    says(&format!("{first}{end}"), "has no recipient");
    says(&format!("{first}x\n"), "has the line \"x\"; expected a recipient's, which begins with \"-> \"");
    says(
        &format!("{first}-> a  b\n\n{end}"),
        "has the line \"-> a  b\"; expected words with one space between them",
    );
    says(&format!("{first}-> a\n*\n{end}"), "has a recipient with a body that is no Base64");
    says(&format!("{first}-> a\nAB\n{end}"), "has a recipient with a body that is no Base64");
    says(&format!("{first}-> a\n{}\n", "A".repeat(65)), "has a line of 65 columns; expected 64 at most");
    says(&format!("{first}-> X25519 AA\n\n{end}"), "has a malformed recipient of the kind X25519");
    says(&format!("{first}-> a\n\n--- AA\n"), "ends in no authentication code");
    says(&format!("{first}-> \u{e9}\n\n{end}"), "is no text");
    says(&format!("{first}-> scrypt a\n\n-> b\n\n{end}"), "has a passphrase beside other recipients");
    says(&format!("{first}-> {}", "a".repeat(2 << 20)), "is longer than 1048576 bytes");
    let zero = header::base64(&[0; 32]);
    says(&format!("{first}-> X25519 {zero}\n{zero}\n{end}"), "has a malformed recipient of the kind X25519");
    let why = "is encrypted with a passphrase; expected a recipient's key (`age --decrypt` asks for the passphrase)";
    assert_eq!(head(&format!("{first}-> scrypt a\n\n{end}")), why);
}

#[test]
fn recipients_that_are_none_are_told() {
    let expected = "expected age1… of age's kind X25519, or an OpenSSH public key of the kind ssh-ed25519";
    for (text, why) in [
        ("age1qqq", format!("is no recipient; {expected}")),
        (&RECIPIENT.replace("zv", "zw"), format!("is no recipient; {expected}")),
        ("", format!("is no recipient; {expected}")),
        (
            &bech32::encode::<bech32::Bech32>(bech32::Hrp::parse("age1tag").unwrap(), &[2; 33]).unwrap(),
            format!("is a recipient of another kind; {expected}"),
        ),
        (
            &bech32::encode::<bech32::Bech32>(bech32::Hrp::parse("age").unwrap(), &[0; 32]).unwrap(),
            "is a point of small order, which is nobody's key".to_owned(),
        ),
        (SECRET, "is a secret key; expected the recipient that belongs to it (`age-keygen -y`)".to_owned()),
        (
            "ssh-rsa AAAAB3NzaC1yc2EAAAADAQAB me",
            "is a key of the kind ssh-rsa; expected ssh-ed25519 (`ssh-keygen -t ed25519`)".to_owned(),
        ),
        ("ssh-ed25519 A*", "is no public key: what follows its kind is no Base64".to_owned()),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA==", "is no public key: it has not 32 bytes".to_owned()),
    ] {
        let error = Recipients::default().add(text).unwrap_err().to_string();
        assert_eq!(error, format!("{text:?}: {why}"));
    }
}

#[test]
fn identities_that_are_none_are_told_without_their_content() {
    let key = SECRET.replace("GFPY", "GFPP");
    for (text, why) in [
        ("", "has no key"),
        ("# nothing\n", "has no key"),
        (&*key, "line 1: is no identity; expected AGE-SECRET-KEY-1…, or a private key of OpenSSH"),
        (RECIPIENT, "line 1: is no identity; expected AGE-SECRET-KEY-1…, or a private key of OpenSSH"),
        (
            "\nAGE-PLUGIN-YUBIKEY-1QQ",
            "line 2: is a key of a kind that hiber does not know; expected AGE-SECRET-KEY-1…",
        ),
        ("age-encryption.org/v1\n", "is encrypted itself; expected what `age --decrypt` makes of it"),
        ("-----BEGIN X\n", "is no private key of OpenSSH"),
        (
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "is a PRIVATE KEY; expected a private key of OpenSSH of the kind ssh-ed25519",
        ),
        (
            "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
            "is no private key of OpenSSH, version 1",
        ),
    ] {
        assert_eq!(identities(text).unwrap_err(), why, "{text}");
    }
    assert_eq!(format!("{:?}", ours()), "1 identities");
}
