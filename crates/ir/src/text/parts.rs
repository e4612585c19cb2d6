//! Types, formulas and attributes: the parts that text forms share.

use super::elements::{float, float_text};
use super::lex::{Cursor, Token};
use crate::{Attr, Dim, TensorType, Type};
use orrery_base::Result;
use orrery_numerics::{DType, Format};

/// Parses all of `text` by one of the functions of this module.
///
/// # Errors
/// What `part` says; `text-syntax` where text is left over.
pub fn all<'a, T>(text: &'a str, part: impl FnOnce(&mut Cursor<'a>) -> Result<T>) -> Result<T> {
    let mut cursor = Cursor::new(text)?;
    let parsed = part(&mut cursor)?;
    cursor.finish()?;
    Ok(parsed)
}

/// A formula: `2*seq + 1`.
///
/// # Errors
/// `text-syntax`, `text-limit`.
pub fn dim(cursor: &mut Cursor<'_>) -> Result<Dim> {
    cursor.nested(|cursor| {
        let mut terms = vec![term(cursor)?];
        // A minus is left to the term, as its sign.
        while cursor.take("+")? || cursor.at("-") {
            terms.push(term(cursor)?);
        }
        Ok(terms.into_iter().sum())
    })
}

fn term(cursor: &mut Cursor<'_>) -> Result<Dim> {
    let mut product = match cursor.peek() {
        Token::Number(_) => Dim::Known(cursor.i64("an integer")?),
        Token::Punctuation("-") => {
            // The sign belongs to the number: the smallest one has no positive counterpart.
            let mut ahead = cursor.clone();
            ahead.advance()?;
            if let Token::Number(_) = ahead.peek() {
                Dim::Known(cursor.i64("an integer")?)
            } else {
                *cursor = ahead;
                Dim::Known(-1) * factor(cursor)?
            }
        }
        _ => factor(cursor)?,
    };
    while cursor.take("*")? {
        product = product * factor(cursor)?;
    }
    Ok(product)
}

fn factor(cursor: &mut Cursor<'_>) -> Result<Dim> {
    let combine = match cursor.peek() {
        Token::Number(_) => return cursor.i64("an integer").map(Dim::Known),
        Token::Name("floordiv") => Dim::floor_div,
        Token::Name("max") => Dim::larger,
        Token::Name("min") => Dim::smaller,
        Token::Name(_) | Token::String(_) => {
            return cursor.name("a dimension").map(|name| Dim::symbol(&name));
        }
        _ => return cursor.expected("a dimension").err(),
    };
    cursor.advance()?;
    cursor.expect("(")?;
    let left = dim(cursor)?;
    cursor.expect(",")?;
    let right = dim(cursor)?;
    cursor.expect(")")?;
    Ok(combine(&left, &right))
}

/// An element type: `f32`.
///
/// # Errors
/// `text-syntax`.
pub fn dtype(cursor: &mut Cursor<'_>) -> Result<DType> {
    let Token::Name(name) = *cursor.peek() else { return cursor.expected("an element type").err() };
    match DType::parse(name) {
        Some(dtype) => cursor.advance().map(|_| dtype),
        None => {
            let all: Vec<&str> = DType::ALL.into_iter().map(DType::name).collect();
            cursor.expected("an element type").help(format!("element types: {}", all.join(", "))).err()
        }
    }
}

/// A type: `f32[batch, 3]`, `f32[..]`, `sequence<…>`, `optional<…>` or `unknown`.
///
/// # Errors
/// `text-syntax`, `text-limit`.
pub fn ty(cursor: &mut Cursor<'_>) -> Result<Type> {
    match cursor.peek() {
        Token::Name("unknown") => cursor.advance().map(|_| Type::Unknown),
        Token::Name("sequence") => type_of(cursor).map(|of| Type::Sequence(Box::new(of))),
        Token::Name("optional") => type_of(cursor).map(|of| Type::Optional(Box::new(of))),
        _ => {
            let dtype = dtype(cursor)?;
            cursor.expect("[")?;
            Ok(Type::Tensor(TensorType { dtype, shape: shape(cursor)? }))
        }
    }
}

/// What stands in the angle brackets of the type constructor under the cursor.
fn type_of(cursor: &mut Cursor<'_>) -> Result<Type> {
    cursor.advance()?;
    cursor.expect("<")?;
    let of = cursor.nested(ty)?;
    cursor.expect(">")?;
    Ok(of)
}

/// A shape after its opening bracket.
fn shape(cursor: &mut Cursor<'_>) -> Result<Option<Vec<Dim>>> {
    if cursor.take("..")? {
        cursor.expect("]")?;
        return Ok(None);
    }
    let mut dims = Vec::new();
    cursor.list("]", |cursor| {
        dims.push(dim(cursor)?);
        Ok(())
    })?;
    Ok(Some(dims))
}

/// The value of an attribute.
///
/// # Errors
/// `text-syntax`, `text-limit`.
pub fn attribute(cursor: &mut Cursor<'_>) -> Result<Attr> {
    match *cursor.peek() {
        Token::Punctuation("[") => list(cursor),
        Token::Name("floats") => empty(cursor, Attr::Floats(Vec::new())),
        Token::Name("strings") => empty(cursor, Attr::Strs(Vec::new())),
        Token::Name(name) if !is_number(name) => match DType::parse(name) {
            Some(dtype) => {
                let mut ahead = cursor.clone();
                ahead.advance()?;
                if ahead.at("[") {
                    return ty(cursor).map(Attr::Type);
                }
                *cursor = ahead;
                Ok(Attr::DType(dtype))
            }
            None if ["unknown", "sequence", "optional"].contains(&name) => ty(cursor).map(Attr::Type),
            None => cursor.expected("the value of an attribute").help("strings stand in quotes").err(),
        },
        _ => scalar(cursor),
    }
}

/// Names that are floats.
fn is_number(name: &str) -> bool {
    ["inf", "nan", "bits"].contains(&name)
}

fn empty(cursor: &mut Cursor<'_>, list: Attr) -> Result<Attr> {
    cursor.advance()?;
    cursor.expect("[")?;
    cursor.expect("]")?;
    Ok(list)
}

/// A number or a string.
fn scalar(cursor: &mut Cursor<'_>) -> Result<Attr> {
    let mut ahead = cursor.clone();
    ahead.take("-")?;
    match *ahead.peek() {
        Token::String(_) if !cursor.at("-") => cursor.string_value("a string").map(Attr::Str),
        Token::Number(digits) if digits.starts_with("0x") || !digits.contains(['.', 'e', 'E']) => {
            cursor.i64("an integer").map(Attr::Int)
        }
        Token::Number(_) => float(cursor, Format::FP64).map(|code| Attr::Float(f64::from_bits(code))),
        Token::Name(name) if is_number(name) => {
            float(cursor, Format::FP64).map(|code| Attr::Float(f64::from_bits(code)))
        }
        _ => cursor.expected("the value of an attribute").err(),
    }
}

fn list(cursor: &mut Cursor<'_>) -> Result<Attr> {
    cursor.expect("[")?;
    let (mut ints, mut floats, mut strings) = (Vec::new(), Vec::new(), Vec::new());
    cursor.list("]", |cursor| {
        let start = cursor.offset();
        let item = scalar(cursor)?;
        let number = match item {
            Attr::Int(n) => {
                ints.push(n);
                Some(n as f64)
            }
            Attr::Float(x) => Some(x),
            Attr::Str(text) => {
                strings.push(text);
                None
            }
            _ => None,
        };
        floats.extend(number);
        if floats.is_empty() || strings.is_empty() {
            Ok(())
        } else {
            cursor.error_at(start, "a list holds either numbers or strings").err()
        }
    })?;
    Ok(if !strings.is_empty() {
        Attr::Strs(strings)
    } else if ints.len() == floats.len() {
        Attr::Ints(ints)
    } else {
        Attr::Floats(floats)
    })
}

/// The value of an attribute as it prints.
pub fn attribute_text(attr: &Attr) -> String {
    fn joined<T>(items: &[T], empty: &str, text: impl Fn(&T) -> String) -> String {
        if items.is_empty() {
            return empty.to_owned();
        }
        format!("[{}]", items.iter().map(text).collect::<Vec<_>>().join(", "))
    }
    let number = |x: &f64| float_text(Format::FP64, x.to_bits());
    match attr {
        Attr::Int(n) => n.to_string(),
        Attr::Float(x) => number(x),
        Attr::Str(text) => format!("{text:?}"),
        Attr::DType(dtype) => dtype.to_string(),
        Attr::Type(ty) => ty.to_string(),
        Attr::Ints(ints) => joined(ints, "[]", ToString::to_string),
        Attr::Floats(floats) => joined(floats, "floats[]", number),
        Attr::Strs(strings) => joined(strings, "strings[]", |text| format!("{text:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_come_back() {
        for text in [
            "0",
            "-7",
            "batch",
            "3*seq",
            "-seq + 1",
            "batch*seq + 2*seq - 1",
            "floordiv(seq - 1, 2) + 1",
            "max(2*\"a b\", floordiv(h, 0))",
            "-9223372036854775808*x - 9223372036854775808",
            "\"..\"*\"max\"",
            "/model/out.dim0",
        ] {
            assert_eq!(all(text, dim).unwrap().to_string(), text);
        }
        assert_eq!(all("2*seq + seq*1 - 0", dim).unwrap().to_string(), "3*seq");
        assert_eq!(all("floordiv(7, -2)", dim).unwrap(), Dim::Known(-4));
    }

    #[test]
    fn attributes_come_back() {
        for text in [
            "1",
            "-9223372036854775808",
            "1.0",
            "-0.0",
            "1e300",
            "inf",
            "-inf",
            "nan",
            "bits(0xfff8000000000001)",
            "\"a\\\"b\"",
            "f32",
            "f32[]",
            "i64[..]",
            "sequence<optional<unknown>>",
            "[]",
            "floats[]",
            "strings[]",
            "[1, -2]",
            "[1.0, nan]",
            "[\"a\", \"\"]",
        ] {
            assert_eq!(attribute_text(&all(text, attribute).unwrap()), text);
        }
        assert_eq!(all("[1, 2.5]", attribute).unwrap(), Attr::Floats(vec![1.0, 2.5]));
    }

    #[test]
    fn wrong_parts_are_refused() {
        for text in ["", "seq +", "2 seq", "99999999999999999999", "floordiv(a)", "(a)", "\"", "1.5"] {
            assert!(all(text, dim).is_err(), "{text}");
        }
        for text in ["f32", "f33[1]", "sequence<f32>", "f32[1", "f32[,]", "f32[..", "unknown[]"] {
            assert!(all(text, ty).is_err(), "{text}");
        }
        for text in ["name", "[1, \"a\"]", "-\"a\"", "- nan", "[[1]]", "floats[1.0]", "1.5.5", "f16 1"] {
            assert!(all(text, attribute).is_err(), "{text}");
        }
        let deep = format!("{}a{}", "max(b, ".repeat(5000), ")".repeat(5000));
        assert_eq!(all(&deep, dim).unwrap_err().code, "text-limit");
    }
}
