//! The binary header of the PROXY protocol: "The PROXY protocol, versions 1 & 2" by Willy Tarreau
//! (HAProxy's `doc/proxy-protocol.txt`), section 2.2.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// What every header of version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, and the connection is somebody else's (command `PROXY`).
const VERSION_AND_COMMAND: u8 = 0x21;
/// `AF_INET` and `STREAM`.
const TCP4: u8 = 0x11;
/// `AF_INET6` and `STREAM`.
const TCP6: u8 = 0x21;

/// The header of a TCP connection from `source` to `destination`, as the client knows them. Where
/// they are of two families both are written as IPv6, the IPv4 one mapped (RFC 4291 section
/// 2.5.5.2).
///
/// ```
/// # use weft_lb::relay::header;
/// let (client, server) = ("192.0.2.1:56324".parse()?, "192.0.2.2:443".parse()?);
/// assert_eq!(header::v2(client, server).len(), 28);
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
pub fn v2(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.push(VERSION_AND_COMMAND);
    let mut addresses = Vec::new();
    match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            header.push(TCP4);
            addresses.extend(source.octets());
            addresses.extend(destination.octets());
        }
        (source, destination) => {
            header.push(TCP6);
            addresses.extend(as_v6(source).octets());
            addresses.extend(as_v6(destination).octets());
        }
    }
    addresses.extend(source.port().to_be_bytes());
    addresses.extend(destination.port().to_be_bytes());
    // 12 or 36 bytes.
    let length = u16::try_from(addresses.len()).unwrap_or(u16::MAX);
    header.extend(length.to_be_bytes());
    header.extend(addresses);
    header
}

fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(source: &str, destination: &str) -> Vec<u8> {
        v2(source.parse().unwrap(), destination.parse().unwrap())
    }

    #[test]
    fn known_bytes_of_ipv4() {
        let wanted = [
            0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54,
            0x0a, // signature
            0x21, 0x11, 0x00, 0x0c, // version 2, PROXY; TCP over IPv4; 12 bytes
            192, 0, 2, 1, 198, 51, 100, 7, // from, to
            0xdc, 0x04, 0x01, 0xbb, // 56324, 443
        ];
        assert_eq!(header("192.0.2.1:56324", "198.51.100.7:443"), wanted);
        assert_eq!(
            header("[::ffff:192.0.2.1]:56324", "198.51.100.7:443"),
            wanted
        );
    }

    #[test]
    fn known_bytes_of_ipv6() {
        let mut wanted = vec![
            0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54,
            0x0a, // signature
            0x21, 0x21, 0x00, 0x24, // version 2, PROXY; TCP over IPv6; 36 bytes
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, // from
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, // to
            0x1f, 0x90, 0x00, 0x50, // 8080, 80
        ];
        assert_eq!(header("[2001:db8::1]:8080", "[2001:db8::2]:80"), wanted);
        wanted[16..32].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1]);
        assert_eq!(header("192.0.2.1:8080", "[2001:db8::2]:80"), wanted);
    }

    proptest! {
        #[test]
        fn the_length_says_what_follows(source: SocketAddr, destination: SocketAddr) {
            let header = v2(source, destination);
            let length = u16::from_be_bytes([header[14], header[15]]);
            prop_assert_eq!(header.len(), 16 + usize::from(length));
            let ports = &header[header.len() - 4..];
            prop_assert_eq!(&ports[..2], &source.port().to_be_bytes());
            prop_assert_eq!(&ports[2..], &destination.port().to_be_bytes());
        }
    }
}
