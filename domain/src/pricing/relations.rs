//! How all classes contain each other, as bit sets: worked out once, then a lookup.
//!
//! [`Class::contains`] and [`Class::overlap`] compare names, which is too slow for every call that is
//! priced. 59 classes fit the 64 bits of a [`ClassSet`]. Built on first use and kept for the life of
//! the process; nothing in it changes.

use super::class::{COUNT, Class};
use std::sync::LazyLock;

const _: () = assert!(COUNT <= 64, "a set of classes is 64 bits");

/// A set of classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClassSet(u64);

impl ClassSet {
    #[must_use]
    pub fn contains(self, class: Class) -> bool {
        self.0 & bit(class) != 0
    }

    pub fn insert(&mut self, class: Class) {
        self.0 |= bit(class);
    }

    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    #[must_use]
    pub fn contains_all(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    /// In the order of their names.
    pub fn iter(self) -> impl Iterator<Item = Class> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            (left != 0).then(|| {
                let index = left.trailing_zeros() as usize;
                left &= left - 1;
                RELATIONS.classes[index]
            })
        })
    }
}

impl FromIterator<Class> for ClassSet {
    fn from_iter<I: IntoIterator<Item = Class>>(classes: I) -> Self {
        let mut set = Self::default();
        classes.into_iter().for_each(|class| set.insert(class));
        set
    }
}

struct Relations {
    classes: Vec<Class>,
    wholes: Vec<ClassSet>,
    parts: Vec<ClassSet>,
    /// By class: the pairs that have it in common and of which neither contains the other.
    overlapping: Vec<Vec<ClassSet>>,
    parts_first: Vec<Class>,
}

static RELATIONS: LazyLock<Relations> = LazyLock::new(|| {
    let classes: Vec<Class> = Class::all().collect();
    let related = |related: fn(Class, Class) -> bool| {
        let of =
            |class: Class| classes.iter().copied().filter(move |c| related(class, *c)).collect();
        classes.iter().map(|class| of(*class)).collect::<Vec<ClassSet>>()
    };
    let wholes = related(|class, other| other.contains(class));
    let parts = related(Class::contains);
    let mut overlapping = vec![Vec::new(); COUNT];
    for (index, left) in classes.iter().enumerate() {
        for right in &classes[index + 1..] {
            let nested = left.contains(*right) || right.contains(*left);
            if let (false, Some(both)) = (nested, left.overlap(*right)) {
                overlapping[both.index()].push([*left, *right].into_iter().collect());
            }
        }
    }
    let mut parts_first = classes.clone();
    parts_first.sort_by_key(|class| (std::cmp::Reverse(class.depth()), class.name()));
    Relations { classes, wholes, parts, overlapping, parts_first }
});

/// All that contain this one.
#[must_use]
pub fn wholes(class: Class) -> ClassSet {
    RELATIONS.wholes[class.index()]
}

/// All that this one contains.
#[must_use]
pub fn parts(class: Class) -> ClassSet {
    RELATIONS.parts[class.index()]
}

/// The pairs of classes of which this one is the common part.
#[must_use]
pub fn overlapping(class: Class) -> &'static [ClassSet] {
    &RELATIONS.overlapping[class.index()]
}

/// All classes, each after every class that it contains.
#[must_use]
pub fn parts_first() -> &'static [Class] {
    &RELATIONS.parts_first
}

fn bit(class: Class) -> u64 {
    1 << class.index()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_say_what_the_classes_say() {
        for class in Class::all() {
            for other in Class::all() {
                assert_eq!(parts(class).contains(other), class.contains(other));
                assert_eq!(wholes(class).contains(other), other.contains(class));
            }
            let position = |c: Class| parts_first().iter().position(|found| *found == c);
            assert!(parts(class).iter().all(|part| position(part) < position(class)), "{class}");
        }
        let cached_audio = Class::named("cache_audio_read_tokens").unwrap();
        let pair = [Class::CACHE_READ_TOKENS, Class::INPUT_AUDIO_TOKENS].into_iter().collect();
        assert!(overlapping(cached_audio).contains(&pair));
        assert!(overlapping(Class::INPUT_TOKENS).is_empty());
    }
}
