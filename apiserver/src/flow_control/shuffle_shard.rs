//! Shuffle sharding: each flow gets a hand of queues, so that a flow that floods its own leaves other flows most of theirs.

/// Tells one flow from another: eight bytes of the SHA-256 of the schema's name and the flow's distinguisher.
pub fn hash(schema: &str, distinguisher: &str) -> u64 {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    context.update(schema.as_bytes());
    context.update(&[0]);
    context.update(distinguisher.as_bytes());
    let digest = context.finish();
    digest.as_ref().iter().take(8).rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Deals `hand` distinct cards of a deck of `deck`, as the hash says. All hands are equally likely.
pub fn deal(mut hash: u64, deck: usize, hand: usize) -> Vec<usize> {
    let mut remainders = Vec::with_capacity(hand);
    for dealt in 0..hand.min(deck) {
        let left = (deck - dealt) as u64;
        remainders.push((hash % left) as usize);
        hash /= left;
    }
    // The n-th remainder numbers the cards that are left after n cards; each lower or equal one before it shifts it by one.
    (0..remainders.len())
        .map(|n| remainders[..n].iter().rev().fold(remainders[n], |card, earlier| card + usize::from(card >= *earlier)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    #[test]
    fn a_hand_has_distinct_cards_and_every_hand_is_as_likely() {
        let mut seen: HashMap<Vec<usize>, usize> = HashMap::new();
        for hash in 0..(6 * 5 * 4 * 7) {
            let hand = deal(hash, 6, 3);
            assert_eq!(hand.iter().collect::<HashSet<_>>().len(), 3, "{hand:?}");
            assert!(hand.iter().all(|card| *card < 6));
            *seen.entry(hand).or_default() += 1;
        }
        assert_eq!(seen.len(), 6 * 5 * 4);
        assert!(seen.values().all(|count| *count == 7));
    }

    #[test]
    fn a_hand_is_never_larger_than_the_deck() {
        assert_eq!(deal(u64::MAX, 1, 8), [0]);
        assert!(deal(7, 0, 8).is_empty());
    }

    #[test]
    fn flows_differ_by_schema_and_distinguisher() {
        assert_ne!(hash("a", "b"), hash("a", "c"));
        assert_ne!(hash("a", "b"), hash("b", "b"));
        assert_ne!(hash("ab", ""), hash("a", "b"));
    }
}
