//! Names in the paths of the daemon's API.

/// A name as one segment of a path (RFC 3986 §3.3): the kernel takes `%`, `?` and `#` in an interface's name.
pub fn path_segment(name: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => {
                text.push(char::from(byte));
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_segment() {
        assert_eq!(path_segment("v0/10.0.0.2"), "v0%2F10.0.0.2");
        assert_eq!(path_segment("2001:db8::1"), "2001:db8::1");
        assert_eq!(path_segment("a b?c#d%é"), "a%20b%3Fc%23d%25%C3%A9");
    }
}
