//! The names of what is negotiated: virtio 1.2 §5.1.3 and §6, and "Protocol features" of vhost-user.rst.

/// Bits of the virtio features.
const VIRTIO: [(u32, &str); 36] = [
    (0, "csum"),
    (1, "guest_csum"),
    (2, "ctrl_guest_offloads"),
    (3, "mtu"),
    (5, "mac"),
    (7, "guest_tso4"),
    (8, "guest_tso6"),
    (9, "guest_ecn"),
    (10, "guest_ufo"),
    (11, "host_tso4"),
    (12, "host_tso6"),
    (13, "host_ecn"),
    (14, "host_ufo"),
    (15, "mrg_rxbuf"),
    (16, "status"),
    (17, "ctrl_vq"),
    (18, "ctrl_rx"),
    (19, "ctrl_vlan"),
    (21, "guest_announce"),
    (22, "mq"),
    (23, "ctrl_mac_addr"),
    (24, "notify_on_empty"),
    (26, "log_all"),
    (27, "any_layout"),
    (28, "indirect_desc"),
    (29, "event_idx"),
    (30, "protocol_features"),
    (32, "version_1"),
    (33, "access_platform"),
    (34, "ring_packed"),
    (35, "in_order"),
    (38, "notification_data"),
    (40, "ring_reset"),
    (54, "guest_uso4"),
    (55, "guest_uso6"),
    (56, "host_uso"),
];

/// Bits of the protocol features.
const PROTOCOL: [(u32, &str); 17] = [
    (0, "MQ"),
    (1, "LOG_SHMFD"),
    (2, "RARP"),
    (3, "REPLY_ACK"),
    (4, "NET_MTU"),
    (5, "BACKEND_REQ"),
    (6, "CROSS_ENDIAN"),
    (7, "CRYPTO_SESSION"),
    (8, "PAGEFAULT"),
    (9, "CONFIG"),
    (10, "BACKEND_SEND_FD"),
    (11, "HOST_NOTIFIER"),
    (12, "INFLIGHT_SHMFD"),
    (13, "RESET_DEVICE"),
    (14, "INBAND_NOTIFICATIONS"),
    (15, "CONFIGURE_MEM_SLOTS"),
    (16, "STATUS"),
];

fn names(bits: u64, of: &[(u32, &str)]) -> Vec<String> {
    (0..u64::BITS)
        .filter(|bit| bits >> bit & 1 == 1)
        .map(|bit| {
            let name = of.iter().find(|(of, _)| *of == bit);
            name.map_or_else(|| format!("bit_{bit}"), |(_, name)| (*name).to_owned())
        })
        .collect()
}

/// The names of virtio features.
pub(super) fn virtio(bits: u64) -> Vec<String> {
    names(bits, &VIRTIO)
}

/// The names of protocol features.
pub(super) fn protocol(bits: u64) -> Vec<String> {
    names(bits, &PROTOCOL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_have_names_and_those_that_have_none_a_number() {
        assert_eq!(virtio(1 << 15 | 1 << 34), ["mrg_rxbuf", "ring_packed"]);
        assert_eq!(virtio(1 << 63), ["bit_63"]);
        assert_eq!(protocol(0x10001), ["MQ", "STATUS"]);
    }
}
