//! Tells the neighbours that an address has a MAC address: gratuitous ARP (RFC 5227 §2.3, §3) and unsolicited neighbour
//! advertisements (RFC 4861 §7.2.6).
//!
//! The frames leave through the pod's interface like its own, so every switch and cache on the way hears them. One
//! round is sent without waiting. Both RFCs let it be repeated: whoever wants that calls again after two seconds or more
//! (`ANNOUNCE_INTERVAL` of RFC 5227 §1.1; the `RetransTimer` of RFC 4861 §10 is shorter).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clearway_io::PacketSocket;
use clearway_wire::MacAddr;
use clearway_wire::arp::{self, Arp, Operation};
use clearway_wire::ethernet::{self, EtherType, EthernetFrame};
use clearway_wire::ndp::{self, ALL_NODES, Message, Ndp, multicast_mac};

use super::{Pod, PodError};
use crate::host::HostError;

impl Pod {
    /// Sends one announcement for each address from an interface of the pod. Does not wait: where there is no carrier or no
    /// room, that is an error, after the others were tried; a TAP that nobody reads drops them. Needs CAP_NET_RAW.
    pub(crate) fn announce(
        &mut self,
        interface: &str,
        mac: MacAddr,
        addresses: &[IpAddr],
    ) -> Result<(), PodError> {
        if addresses.is_empty() {
            return Ok(());
        }
        let ifindex = self.link(interface)?.ifindex;
        let socket = self
            .netns
            .run(|| Ok(PacketSocket::open().map_err(HostError::Socket)?))?;
        let mut result = Ok(());
        for address in addresses {
            if let Err(source) = socket.send(ifindex.0, &announcement(mac, *address)) {
                result = result.and(Err(PodError::Announce {
                    interface: interface.to_owned(),
                    netns: self.netns.path().to_owned(),
                    address: *address,
                    source,
                }));
            }
        }
        result
    }
}

/// The frame that announces an address.
pub(crate) fn announcement(mac: MacAddr, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => gratuitous_arp(mac, address),
        IpAddr::V6(address) => advertisement(mac, address),
    }
}

/// RFC 5227 §3: a request, because more hosts heed it than a reply.
fn gratuitous_arp(mac: MacAddr, address: Ipv4Addr) -> Vec<u8> {
    let arp = Arp {
        operation: Operation::REQUEST,
        sha: mac,
        spa: address,
        tha: MacAddr::ZERO,
        tpa: address,
    };
    let mut frame = vec![0; ethernet::HEADER_LEN + arp::PACKET_LEN];
    frame[ethernet::HEADER_LEN..].copy_from_slice(&arp.to_bytes());
    addressed(frame, MacAddr::BROADCAST, mac, EtherType::ARP)
}

fn advertisement(mac: MacAddr, address: Ipv6Addr) -> Vec<u8> {
    let message = Ndp {
        src: address,
        dst: ALL_NODES,
        target: address,
        message: Message::Advertisement {
            target_mac: Some(mac),
            router: false,
            solicited: false,
            override_cache: true,
        },
    };
    let mut frame = vec![0; ethernet::HEADER_LEN + ndp::MAX_PACKET_LEN];
    // The room is what such a message needs: a failure would leave a frame that nobody understands.
    let written = message.emit(&mut frame[ethernet::HEADER_LEN..]);
    debug_assert_eq!(written, Ok(ndp::MAX_PACKET_LEN));
    addressed(frame, multicast_mac(ALL_NODES), mac, EtherType::IPV6)
}

fn addressed(mut frame: Vec<u8>, dst: MacAddr, src: MacAddr, ethertype: EtherType) -> Vec<u8> {
    let mut header = EthernetFrame::new_unchecked(&mut frame[..]);
    header.set_dst(dst);
    header.set_src(src);
    header.set_ethertype(ethertype);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 7]);

    #[test]
    fn an_arp_announcement_is_a_request_for_its_own_address() {
        let frame = announcement(MAC, IpAddr::V4(Ipv4Addr::new(10, 9, 0, 5)));
        let expected = [
            &[0xff; 6][..],
            &[2, 0, 0, 0, 0, 7, 8, 6],
            &[0, 1, 8, 0, 6, 4, 0, 1],
            &[2, 0, 0, 0, 0, 7, 10, 9, 0, 5],
            &[0, 0, 0, 0, 0, 0, 10, 9, 0, 5],
        ];
        assert_eq!(frame, expected.concat());
    }

    #[test]
    fn an_advertisement_goes_to_all_nodes_and_overrides() {
        let address: Ipv6Addr = "fd09::5".parse().expect("a literal address");
        let frame = announcement(MAC, IpAddr::V6(address));
        assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(frame[12..14], [0x86, 0xdd]);
        let read = Ndp::parse(&frame[14..]).expect("every check of RFC 4861 holds");
        assert_eq!((read.src, read.dst, read.target), (address, ALL_NODES, address));
        assert_eq!(
            read.message,
            Message::Advertisement {
                target_mac: Some(MAC),
                router: false,
                solicited: false,
                override_cache: true,
            }
        );
    }
}
