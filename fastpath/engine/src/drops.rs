//! Why a packet was dropped: the one table behind the enum, the texts, the metrics and `docs/counters.md`.

macro_rules! drop_reasons {
    ($($(#[$unused:meta])* $variant:ident $name:literal $text:literal $advice:literal)*) => {
        /// Why a packet was dropped. Every dropped packet counts under exactly one reason.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $text] $variant,)*
        }

        impl DropReason {
            /// All reasons, in the order of their numbers.
            pub const ALL: [Self; [$(Self::$variant),*].len()] = [$(Self::$variant),*];

            /// The name in counters, API and metrics.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What happened.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// What an operator can do about it.
            #[must_use]
            pub fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice,)* }
            }
        }
    };
}

drop_reasons! {
    Truncated "truncated" "Shorter than the headers that it must have."
        "Look at the sender: such frames are damaged or crafted."
    NoService "no_service" "Arrived on a port that belongs to no bridge domain and is not for one of our VTEPs."
        "Give the port `access`, `trunk`, `tunnel` or a cross-connect."
    UntaggedNotAllowed "untagged_not_allowed" "Untagged (or priority-tagged) on a trunk port without a native bridge domain."
        "Set `native` on the port, or tag the frames."
    VlanNotAllowed "vlan_not_allowed" "Carries a VLAN tag that this port does not accept, or would leave by a trunk's native VLAN with a tag of another."
        "Add the VLAN to the port's `trunk`, or use `tunnel` to carry tags as payload."
    LinkLocal "link_local" "To 01:80:c2:00:00:0x, which a bridge must not forward (IEEE 802.1Q, 8.6.3)."
        "Expected for STP, LACP, LLDP and pause frames; a cross-connect passes them."
    InvalidSource "invalid_source" "The source MAC address is a group address or zero."
        "Look at the sender: no station has such an address."
    SpoofedSource "spoofed_source" "The source MAC address is not among the port's allowed ones."
        "Add it to `allowed-macs` if it is legitimate."
    VxlanMalformed "vxlan_malformed" "To one of our VTEPs, but not a valid VXLAN datagram (RFC 7348)."
        "Look at the sender: lengths, checksum of the IPv4 header, fragment, or the I flag is wrong."
    UnknownVni "unknown_vni" "VXLAN with a VNI that no bridge domain of this VTEP has."
        "Configure `vni` on a domain, or stop the remote from sending it."
    UnknownRemote "unknown_remote" "VXLAN from an address that is not a configured remote of this VTEP."
        "Add the address to `remotes` of a domain if it is legitimate."
    SamePort "same_port" "The destination is behind the port that it came from."
        "Expected after a flood by a switch in front of the port."
    SplitHorizon "split_horizon" "From a tunnel to a tunnel: remotes reach one another directly (full mesh)."
        "Expected for unknown destinations behind another remote."
    Isolated "isolated" "Between two isolated ports of a domain."
        "Remove `isolated` from one of the ports if they are to talk."
    NoDestination "no_destination" "To be flooded, but the domain has no other member that is up and may take it."
        "Expected while the domain has one port; else see `clearway get ports`."
    StormBroadcast "storm_broadcast" "Above the port's broadcast rate limit."
        "Raise `storm-control.broadcast`, or find the source."
    StormMulticast "storm_multicast" "Above the port's multicast rate limit."
        "Raise `storm-control.multicast`, or find the source."
    StormUnknown "storm_unknown" "Above the port's rate limit for unknown destinations."
        "Raise `storm-control.unknown`, or find out why the destination is never learned."
    PoliceReceive "police_receive" "Received above the port's rate limit."
        "Raise `rate-limit.receive`, or have the sender send less; a longer `burst` absorbs bursts only."
    PoliceTransmit "police_transmit" "To be sent above the output port's rate limit."
        "Raise `rate-limit.transmit`; a longer `burst` absorbs bursts only."
    TunnelUnresolved "tunnel_unresolved" "The remote VTEP has no route or its next hop no known MAC address."
        "See `clearway get tunnels` for the reason."
    TunnelMtu "tunnel_mtu" "Too big for the underlay once encapsulated; an IP sender that asked (DF or IPv6) is told (RFC 1191, RFC 8201)."
        "Lower the MTU inside, or raise the underlay's."
    PortMtu "port_mtu" "Bigger than the output port's MTU."
        "Give the ports of a domain the same MTU."
    OffloadMalformed "offload_malformed" "Left by its sender for a device to finish or to cut up (checksum, TSO, UFO, USO), but what it says about that does not fit its headers."
        "Look at the sender: its driver is faulty or such frames are crafted."
    OffloadTooMany "offload_too_many" "Left by its sender for a device to cut up, into more than 512 pieces."
        "Look at the sender: no TCP or UDP asks for pieces that small, so such frames are crafted."
    NoHeadroom "no_headroom" "No room in front of the frame for the headers to add."
        "Report it: received frames always have room."
    NoChunks "no_chunks" "No free chunk for a copy, or for a part of a large packet."
        "Raise `frames`, or limit flooding with `storm-control`."
    TxFull "tx_full" "The output port's ring was full."
        "The receiver is slower than the traffic; a longer `ring-size` absorbs bursts only."
    TxUnsendable "tx_unsendable" "The output port can't send such a frame: shorter than an Ethernet header, or longer than a chunk where its kernel or driver takes no packets of several buffers."
        "Give the ports of a domain an MTU that all of them can send; frames below 14 bytes are crafted."
    TxDown "tx_down" "The output port is down or not there, or no guest behind it receives: none is connected, or it has not started or has disabled its queue."
        "See `clearway get ports` for the reason, and for what the guest does."
    HandoffFull "handoff_full" "The queue to the worker of the output port was full."
        "That worker is overloaded: spread its ports over more workers."
    NoDomain "no_domain" "The bridge domain, tunnel or member went away while the packet was on its way."
        "Expected for a moment after a change."
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_texts_are_sentences() {
        let names: BTreeSet<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
        for (i, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
            for text in [reason.text(), reason.advice()] {
                assert!(text.ends_with('.') && text.len() > 10, "{reason:?}: {text}");
            }
        }
    }
}
