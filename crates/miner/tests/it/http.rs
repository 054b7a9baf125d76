//! A small HTTP/1.1 client that sends exactly what a test wants, well-formed or not.

use std::net::SocketAddr;
use std::time::Duration;

use nicompute_wire::codes::{Code, Problem};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Nothing in these tests takes longer; a test that waits for it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn code(&self) -> Option<Code> {
        serde_json::from_slice::<Problem>(&self.body).ok()?.known()
    }

    fn parse(bytes: &[u8]) -> Self {
        let split = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("an answer has a head");
        let head = std::str::from_utf8(&bytes[..split]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_owned(), value.trim().to_owned())
        };
        let headers = lines.map(header).collect();
        Self { status, headers, body: bytes[split + 4..].to_vec() }
    }
}

/// The text of a request that ends its connection.
pub(crate) fn request(
    method: &str,
    target: &str,
    headers: &[(String, String)],
    body: &[u8],
) -> Vec<u8> {
    let lines: String =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let text = format!(
        "{method} {target} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n{lines}content-length: {}\r\n\r\n",
        body.len()
    );
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// Sends bytes and reads until the other side closes.
pub(crate) async fn exchange(at: SocketAddr, bytes: &[u8]) -> Answer {
    let talk = async {
        let mut socket = TcpStream::connect(at).await.unwrap();
        // The node may answer and close before it has read everything.
        let sent = socket.write_all(bytes).await;
        let mut answer = Vec::new();
        let read = socket.read_to_end(&mut answer).await;
        assert!(!answer.is_empty(), "no answer: sent {sent:?}, read {read:?}");
        Answer::parse(&answer)
    };
    tokio::time::timeout(PATIENCE, talk).await.expect("an answer in time")
}
