//! Which types fit which, with type variables: what cel-go calls assignability.

use std::collections::HashMap;
use std::sync::Arc;

use crate::types::Type;

/// What type variables stand for.
#[derive(Default)]
pub(crate) struct Substitutions {
    known: HashMap<Arc<str>, Type>,
    /// What was set, and what was there before, so that an attempt that fails leaves nothing behind.
    trail: Vec<(Arc<str>, Option<Type>)>,
    fresh: usize,
}

impl Substitutions {
    pub fn fresh(&mut self) -> Type {
        let ty = Type::Param(format!("_var{}", self.fresh).into());
        self.fresh += 1;
        ty
    }

    fn set(&mut self, name: &Arc<str>, ty: Type) {
        let before = self.known.insert(name.clone(), ty);
        self.trail.push((name.clone(), before));
    }

    /// Whether all of these fit those; variables are bound only if they do.
    pub fn assign_all(&mut self, from: &[Type], to: &[Type]) -> bool {
        self.trail.clear();
        let fits = from.len() == to.len() && from.iter().zip(to).all(|(from, to)| self.fits(from, to));
        if !fits {
            while let Some((name, before)) = self.trail.pop() {
                match before {
                    Some(ty) => self.known.insert(name, ty),
                    None => self.known.remove(&name),
                };
            }
        }
        fits
    }

    pub fn assign(&mut self, from: &Type, to: &Type) -> bool {
        self.assign_all(std::slice::from_ref(from), std::slice::from_ref(to))
    }

    fn fits(&mut self, from: &Type, to: &Type) -> bool {
        if let Type::Param(name) = to {
            match self.stands_for(from, name) {
                (true, _) => return true,
                (false, true) => return false,
                (false, false) => {}
            }
        }
        if let Type::Param(name) = from {
            return self.stands_for(to, name).0;
        }
        if from.is_dyn_or_error() || to.is_dyn_or_error() {
            return true;
        }
        match (from, to) {
            (Type::Null, other) | (other, Type::Null) => other.is_nullable(),
            (Type::Type(_), Type::Type(_)) => true,
            (Type::List(a), Type::List(b)) => self.fits(a, b),
            (Type::Map(a_key, a), Type::Map(b_key, b)) => self.fits(a_key, b_key) && self.fits(a, b),
            (Type::Opaque(a, a_parameters), Type::Opaque(b, b_parameters)) => {
                a == b && a_parameters.len() == b_parameters.len() && a_parameters.iter().zip(&**b_parameters).all(|(a, b)| self.fits(a, b))
            }
            _ => from == to,
        }
    }

    /// Whether a variable may stand for a type, and whether it stood for one before.
    fn stands_for(&mut self, ty: &Type, name: &Arc<str>) -> (bool, bool) {
        if matches!(ty, Type::Param(other) if other == name) {
            return (true, true);
        }
        if let Some(before) = self.known.get(name).cloned() {
            if *ty == before {
                return (true, true);
            }
            if self.fits(ty, &before) {
                let general = most_general(ty, &before);
                if !self.occurs(name, general) {
                    let general = general.clone();
                    self.set(name, general);
                }
                return (true, true);
            }
            return (false, true);
        }
        if self.occurs(name, ty) {
            return (false, false);
        }
        self.set(name, ty.clone());
        (true, false)
    }

    fn occurs(&self, name: &Arc<str>, within: &Type) -> bool {
        match within {
            Type::Param(other) => other == name || self.known.get(other).is_some_and(|ty| self.occurs(name, ty)),
            Type::List(inner) => self.occurs(name, inner),
            Type::Map(key, value) => self.occurs(name, key) || self.occurs(name, value),
            Type::Opaque(_, parameters) => parameters.iter().any(|inner| self.occurs(name, inner)),
            Type::Type(Some(inner)) => self.occurs(name, inner),
            _ => false,
        }
    }

    /// The type with what is known of its variables; the rest of them as `dyn` if that is wanted.
    pub fn resolve(&self, ty: &Type, rest_as_dyn: bool) -> Type {
        let resolve = |inner: &Type| self.resolve(inner, rest_as_dyn);
        match ty {
            Type::Param(name) => match self.known.get(name) {
                Some(known) => resolve(known),
                None if rest_as_dyn => Type::Dyn,
                None => ty.clone(),
            },
            Type::List(inner) => Type::list(resolve(inner)),
            Type::Map(key, value) => Type::map(resolve(key), resolve(value)),
            Type::Opaque(name, parameters) => Type::Opaque(name.clone(), parameters.iter().map(resolve).collect()),
            Type::Type(Some(inner)) => Type::Type(Some(Arc::new(resolve(inner)))),
            other => other.clone(),
        }
    }
}

/// The more general of two types that fit.
pub(crate) fn most_general<'t>(a: &'t Type, b: &'t Type) -> &'t Type {
    if is_no_more_specific(a, b) { a } else { b }
}

fn is_no_more_specific(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Dyn | Type::Param(_), _) => true,
        (_, Type::Dyn | Type::Param(_)) => false,
        (Type::Opaque(a, a_parameters), Type::Opaque(b, b_parameters)) => {
            a == b
                && a_parameters.len() == b_parameters.len()
                && a_parameters.iter().zip(&**b_parameters).all(|(a, b)| is_no_more_specific(a, b))
        }
        (Type::List(a), Type::List(b)) => is_no_more_specific(a, b),
        (Type::Map(a_key, a), Type::Map(b_key, b)) => is_no_more_specific(a_key, b_key) && is_no_more_specific(a, b),
        (Type::Type(_), Type::Type(_)) => true,
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_stand_for_one_type() {
        let mut known = Substitutions::default();
        let var = known.fresh();
        assert!(known.assign_all(&[Type::Int, Type::Dyn], &[var.clone(), var.clone()]));
        assert_eq!(known.resolve(&var, false), Type::Dyn);
        let var = known.fresh();
        assert!(!known.assign_all(&[Type::Int, Type::String], &[var.clone(), var.clone()]));
        assert_eq!(known.resolve(&var, false), var, "an attempt that failed binds nothing");
    }

    #[test]
    fn null_fits_what_may_be_missing() {
        let mut known = Substitutions::default();
        assert!(known.assign(&Type::Null, &Type::object("a")));
        assert!(!known.assign(&Type::Null, &Type::String));
    }
}
