//! Backends that are told of their clients by the PROXY protocol, with a reader of it that is not
//! weft's; and clients that send them much.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// Longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Who cannot write for so long is being held back.
const HELD_BACK: Duration = Duration::from_secs(2);
/// Most that a client writes to a server that does not read.
const FLOOD: usize = 512 << 20;

/// Serves as `name` on a port. The first line of a stream says what it is for: `who` is answered by
/// `NAME CLIENT`, this and every other line; `destination` by where the client connected to; after
/// `echo` comes back what comes, up to the end of it; after `stall` nothing is read.
pub(crate) fn serve(name: &str, port: u16) -> Result<()> {
    // Both families, as Linux does by default.
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
    println!("ready");
    for stream in listener.incoming() {
        let (name, stream) = (name.to_owned(), stream?);
        thread::spawn(move || {
            // A probe that only connects says nothing.
            if let Err(error) = talk(&name, stream) {
                eprintln!("{error:#}");
            }
        });
    }
    Ok(())
}

fn talk(name: &str, stream: TcpStream) -> Result<()> {
    let mut out = stream.try_clone()?;
    let mut stream = BufReader::new(stream);
    let (source, destination) = header(&mut stream)?;
    let mut line = String::new();
    while stream.read_line(&mut line)? > 0 {
        match line.trim_end() {
            "who" => writeln!(out, "{name} {}", source.ip())?,
            "destination" => writeln!(out, "{name} {destination}")?,
            "echo" => {
                std::io::copy(&mut stream, &mut out)?;
                return Ok(());
            }
            "stall" => loop {
                thread::park();
            },
            other => bail!("asked {other:?}"),
        }
        line.clear();
    }
    Ok(())
}

/// Reads a header of version 2 (HAProxy's proxy-protocol.txt, section 2.2): who connected, and to
/// where.
fn header(stream: &mut impl Read) -> Result<(SocketAddr, SocketAddr)> {
    let mut head = [0; 16];
    stream.read_exact(&mut head)?;
    let (signature, rest) = head.split_at(12);
    ensure!(signature == b"\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A");
    let [version_command, family, high, low] = rest.try_into()?;
    ensure!(version_command == 0x21, "{version_command:#x}");
    let mut body = vec![0; usize::from(high) << 8 | usize::from(low)];
    stream.read_exact(&mut body)?;
    let length = match family {
        0x11 => 4,
        0x21 => 16,
        other => bail!("family {other:#x}"),
    };
    ensure!(body.len() == 2 * length + 4, "{} bytes", body.len());
    let (addresses, ports) = body.split_at(2 * length);
    let (source, destination) = addresses.split_at(length);
    let address = |bytes: &[u8]| -> Result<IpAddr> {
        Ok(match length {
            4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes)?).into(),
            _ => Ipv6Addr::from(<[u8; 16]>::try_from(bytes)?).into(),
        })
    };
    let port = |bytes: &[u8]| -> Result<u16> { Ok(u16::from_be_bytes(bytes.try_into()?)) };
    let (from, to) = ports.split_at(2);
    Ok((
        SocketAddr::new(address(source)?, port(from)?),
        SocketAddr::new(address(destination)?, port(to)?),
    ))
}

/// Asks once where the server thinks that it was connected to.
pub(crate) fn destination(to: &str, port: u16) -> Result<()> {
    let mut stream = connect(to, port)?;
    stream.write_all(b"destination\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    print!("{line}");
    Ok(())
}

/// Sends so many bytes, ends its side, and wants all of them back.
pub(crate) fn bulk(to: &str, port: u16, length: usize) -> Result<()> {
    let mut stream = connect(to, port)?;
    let mut writer = stream.try_clone()?;
    // Every four bytes differ.
    let sent: Vec<u8> = (0..length.div_ceil(4))
        .flat_map(|i| {
            u32::try_from(i)
                .unwrap_or(0)
                .wrapping_mul(0x9e37_79b1)
                .to_le_bytes()
        })
        .take(length)
        .collect();
    let sending = sent.clone();
    let writing = thread::spawn(move || -> Result<()> {
        writer.write_all(b"echo\n")?;
        writer.write_all(&sending)?;
        Ok(writer.shutdown(std::net::Shutdown::Write)?)
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back).context("answer")?;
    match writing.join() {
        Ok(written) => written.context("request")?,
        Err(_) => bail!("the writer failed"),
    }
    ensure!(
        back.len() == sent.len(),
        "{} bytes instead of {length}",
        back.len()
    );
    ensure!(back == sent, "other bytes");
    println!("{length} bytes");
    Ok(())
}

/// Writes to a server that does not read, until that is not possible any more; how many bytes that
/// were. Then waits for a line on standard input.
pub(crate) fn flood(to: &str, port: u16) -> Result<()> {
    let mut stream = connect(to, port)?;
    stream.write_all(b"stall\n")?;
    stream.set_write_timeout(Some(HELD_BACK))?;
    let chunk = vec![7; 1 << 16];
    let mut written = 0;
    while written < FLOOD {
        match stream.write(&chunk) {
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error.into()),
        }
    }
    println!("{written}");
    std::io::stdin().lock().read_line(&mut String::new())?;
    Ok(())
}

fn connect(to: &str, port: u16) -> Result<TcpStream> {
    let to = SocketAddr::new(to.parse()?, port);
    let stream = TcpStream::connect_timeout(&to, PATIENCE).context("connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The document's own layout, byte by byte.
    #[test]
    fn a_header_is_read_as_it_is_documented() {
        let bytes =
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x07\xdc\x04\x01\xbbrest";
        let mut stream = &bytes[..];
        let (source, destination) = header(&mut stream).unwrap();
        assert_eq!(source.to_string(), "192.0.2.1:56324");
        assert_eq!(destination.to_string(), "198.51.100.7:443");
        assert_eq!(stream, b"rest");
        assert!(header(&mut &b"GET / HTTP/1.1\r\n\r\n"[..]).is_err());
    }
}
