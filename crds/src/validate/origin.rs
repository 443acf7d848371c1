//! An origin as a browser sends it: `scheme://host[:port]`, lower case, without the port its scheme implies.
//! Anything else would be accepted and then never match, so it is refused with the text that would.

use std::net::Ipv6Addr;

/// What is wrong with an origin and what to write instead; `None` if a browser could send it.
pub(super) fn fault(origin: &str) -> Option<(String, String)> {
    let Some((scheme, rest)) = origin.split_once("://") else {
        return Some(refused(origin, "has no scheme", "write `https://host`"));
    };
    if !matches!(scheme, "http" | "https") {
        return Some(refused(origin, "has a scheme browsers do not send", "write `https://host`"));
    }
    if let Some(host) = rest.strip_suffix('/').filter(|host| !host.contains('/')) {
        return Some(refused(origin, "ends with `/`", &format!("write `{scheme}://{host}`")));
    }
    if rest.contains(['/', '?', '#']) {
        return Some(refused(origin, "has a path", "write only scheme, host and port"));
    }
    if rest.contains('*') {
        return Some(refused(origin, "has a wildcard", "list each origin, or none to allow any"));
    }
    if rest.chars().any(|c| c.is_ascii_uppercase()) {
        return Some(refused(origin, "has capitals, browsers send none", &lower(origin)));
    }
    let Some((host, port)) = split_port(rest) else {
        return Some(refused(origin, "has no valid port", "write a port from 1 to 65535, or none"));
    };
    if !is_host(host) {
        return Some(refused(origin, "has no valid host", "write a DNS name or an address"));
    }
    let implied = if scheme == "https" { 443 } else { 80 };
    (port == Some(implied)).then(|| {
        refused(
            origin,
            "names the port its scheme implies, browsers leave it out",
            &format!("write `{scheme}://{host}`"),
        )
    })
}

fn refused(origin: &str, why: &str, fix: &str) -> (String, String) {
    (format!("origin `{origin}` {why}"), fix.to_owned())
}

fn lower(origin: &str) -> String {
    format!("write `{}`", origin.to_lowercase())
}

/// Host and port; `None` when what stands behind the colon is no port.
fn split_port(rest: &str) -> Option<(&str, Option<u16>)> {
    // The colons inside `[…]` belong to the address.
    let port_from = rest.rfind(']').map_or(0, |end| end + 1);
    match rest[port_from..].rfind(':') {
        None => Some((rest, None)),
        Some(colon) => {
            let (host, port) = rest.split_at(port_from + colon);
            let digits = &port[1..];
            let written_plainly = !digits.starts_with(['0', '+']);
            digits.parse().ok().filter(|_| written_plainly).map(|port| (host, Some(port)))
        }
    }
}

fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
    };
    host.len() <= 253 && host.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_a_browser_sends() {
        for origin in [
            "https://shop.example",
            "http://localhost:3000",
            "https://shop.example:8443",
            "http://127.0.0.1:8080",
            "https://[::1]:8443",
            "https://xn--bcher-kva.example",
        ] {
            assert_eq!(fault(origin), None, "{origin}");
        }
    }

    #[test]
    fn refuses_what_would_never_match_and_says_what_would() {
        for (origin, hint) in [
            ("shop.example", "https://host"),
            ("ftp://shop.example", "https://host"),
            ("null", "https://host"),
            ("https://shop.example/", "`https://shop.example`"),
            ("https://shop.example/path", "only scheme, host and port"),
            ("https://*.shop.example", "list each origin"),
            ("https://Shop.example", "`https://shop.example`"),
            ("https://shop.example:443", "`https://shop.example`"),
            ("http://shop.example:80", "`http://shop.example`"),
            ("https://shop.example:", "a port from 1"),
            ("https://shop.example:0", "a port from 1"),
            ("https://shop.example:+1", "a port from 1"),
            ("https://shop.example:70000", "a port from 1"),
            ("https://user@shop.example", "DNS name"),
            ("https://", "DNS name"),
            ("https://-a.example", "DNS name"),
            ("https://a..example", "DNS name"),
            ("https://[::1", "DNS name"),
            ("https://shöp.example", "DNS name"),
        ] {
            let (_, fix) = fault(origin).unwrap_or_else(|| panic!("{origin} was accepted"));
            assert!(fix.contains(hint), "{origin}: {fix}");
        }
    }
}
