//! The file transfer subsystem, version 3, as OpenSSH's clients expect it: one process for each session, so that a slow
//! disk holds back that session alone and the end of the session ends it.
//!
//! Requests come from the renter, who owns every file here; limits protect the container's memory, not the renter from
//! himself.

use std::io::{self, Read, Write};

mod attributes;
mod files;
mod packet;

use files::Files;
use packet::{PACKET_LEN_MAX, Reader, Writer};

/// Serves requests from `input` until it ends.
///
/// # Errors
/// When the stream breaks, or carries what is no packet.
pub fn serve(input: &mut dyn Read, output: &mut dyn Write) -> io::Result<()> {
    let mut files = Files::default();
    let mut request = Vec::new();
    let mut reply = Writer::default();
    while read_packet(input, &mut request)? {
        let mut reader = Reader::new(&request);
        let Some(kind) = reader.u8() else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an empty packet"));
        };
        files.answer(kind, &mut reader, &mut reply);
        output.write_all(reply.finish())?;
        output.flush()?;
    }
    Ok(())
}

/// Reads one packet. `false` at the end of the stream between packets.
fn read_packet(input: &mut dyn Read, into: &mut Vec<u8>) -> io::Result<bool> {
    let mut len = [0; 4];
    match input.read(&mut len)? {
        0 => return Ok(false),
        count => input.read_exact(&mut len[count..])?,
    }
    let len = usize::try_from(u32::from_be_bytes(len)).unwrap_or(usize::MAX);
    if len > PACKET_LEN_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet over the limit"));
    }
    into.resize(len, 0);
    input.read_exact(into)?;
    Ok(true)
}

#[cfg(test)]
mod tests;
