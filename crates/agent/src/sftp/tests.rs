//! Sessions of the file transfer as bytes in and bytes out.

use proptest::prelude::*;

use super::*;

fn packet(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body: Vec<u8> = std::iter::once(kind).chain(parts.concat()).collect();
    let mut bytes = u32::try_from(body.len()).expect("short").to_be_bytes().to_vec();
    bytes.extend_from_slice(&body);
    bytes
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = u32::try_from(text.len()).expect("short").to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

fn talk(input: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let mut output = Vec::new();
    serve(&mut &*input, &mut output)?;
    let mut replies = Vec::new();
    let mut rest = output.as_slice();
    let mut reply = Vec::new();
    while read_packet(&mut rest, &mut reply).expect("whole replies") {
        replies.push(reply.clone());
    }
    Ok(replies)
}

/// A session that cannot write a file and read it back is no file transfer.
#[test]
fn a_file_is_written_and_read_back() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("x").display().to_string();
    let id = [0, 0, 0, 9];
    let no_attributes = [0; 4];
    let handle = [0, 0, 0, 4, 0, 0, 0, 1];
    let flags = (1_u32 | 2 | 8).to_be_bytes();
    let session = [
        packet(1, &[&[0, 0, 0, 3]]),
        packet(3, &[&id, &text(&path), &flags, &no_attributes]),
        packet(6, &[&id, &handle, &[0; 8], &text("hello")]),
        packet(5, &[&id, &handle, &[0; 8], &[0, 0, 0, 99]]),
        packet(5, &[&id, &handle, &5_u64.to_be_bytes(), &[0, 0, 0, 99]]),
        packet(4, &[&id, &handle]),
        packet(4, &[&id, &handle]),
    ]
    .concat();
    let replies = talk(&session).expect("serves");
    let kinds: Vec<u8> = replies.iter().map(|reply| reply[0]).collect();
    assert_eq!(kinds, [2, 102, 101, 103, 101, 101, 101]);
    assert!(replies[3].ends_with(b"\0\0\0\x05hello"));
    let status = |reply: &[u8]| reply[8];
    assert_eq!([2, 4, 5, 6].map(|at: usize| status(&replies[at])), [0, 1, 0, 4]);
    assert_eq!(std::fs::read(path).expect("written"), b"hello");
}

/// A length over the limit must end the session before memory is taken for it.
#[test]
fn packets_over_the_limit_end_the_session() {
    let over = u32::try_from(PACKET_LEN_MAX + 1).expect("fits").to_be_bytes();
    assert!(talk(&over).is_err());
    let mut longest = packet(99, &[&vec![0; PACKET_LEN_MAX - 1]]);
    assert_eq!(talk(&longest).expect("serves").len(), 1);
    longest.pop();
    assert!(talk(&longest).is_err());
}

proptest! {
    /// Requests with damaged bodies must be answered with a status, whatever they hold.
    #[test]
    fn damaged_requests_are_answered(kind in 0_u8..=255, body in proptest::collection::vec(any::<u8>(), 4..64)) {
        // Requests that change files by name are left out: the names would be random.
        prop_assume!(!matches!(kind, 3 | 9 | 13 | 14 | 15 | 18 | 20 | 200));
        let replies = talk(&packet(kind, &[&body])).expect("serves");
        prop_assert_eq!(replies.len(), 1);
    }
}
