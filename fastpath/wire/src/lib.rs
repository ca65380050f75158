//! Packet formats as typed views over bytes.
