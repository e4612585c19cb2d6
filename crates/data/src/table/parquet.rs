//! Parquet: columns of numbers, words, and lists of numbers; uncompressed, or compressed by Snappy or gzip.

use super::{Cell, Cells, Places, Table};
use bytes::Bytes;
use orrery_base::diagnostic::Context;
use orrery_base::{Diagnostic, Result};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use std::panic::AssertUnwindSafe;

/// Reads a table.
///
/// # Errors
/// `data-format` where it is no Parquet file, damaged, or compressed otherwise; `data-cell` and `data-ragged` with the
/// record and column.
pub(crate) fn read(bytes: Bytes) -> Result<Table> {
    // The library panics on some damaged files; nothing of what it was at is kept.
    std::panic::catch_unwind(AssertUnwindSafe(|| read_rows(bytes))).unwrap_or_else(|_| {
        Diagnostic::error("data-format", "the Parquet file is damaged").help("copy or write it again").err()
    })
}

fn read_rows(bytes: Bytes) -> Result<Table> {
    let reader = SerializedFileReader::new(bytes).map_err(malformed)?;
    let rows = reader.get_row_iter(None).map_err(malformed)?;
    let mut columns: Vec<(String, Cells)> = Vec::new();
    for (number, row) in rows.enumerate() {
        let row = row.map_err(malformed)?;
        let place = || format!("record {}", number + 1);
        for (position, (name, field)) in row.get_column_iter().enumerate() {
            let column = || format!("column `{name}`");
            let cell = cell(field).at(column).at(place)?;
            if number == 0 {
                columns.push((name.clone(), Cells::begin(&cell)));
            }
            columns[position].1.push(cell).at(column).at(place)?;
        }
    }
    Ok(Table { columns, places: Places { what: "record", numbers: Vec::new() } })
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn malformed(error: ParquetError) -> Box<Diagnostic> {
    Box::new(
        Diagnostic::error("data-format", format!("the Parquet file cannot be read: {error}"))
            .help("files may be compressed by Snappy or gzip; other compressions are not read"),
    )
}

fn cell(field: &Field) -> Result<Cell<'_>> {
    if let Some(value) = number(field) {
        return Ok(Cell::Number(value));
    }
    Ok(match field {
        Field::Str(word) => Cell::Word(word),
        Field::Null => Cell::Other("null"),
        Field::ListInternal(_) => {
            let (mut values, mut shape) = (Vec::new(), Vec::new());
            flatten(field, 0, &mut values, &mut shape)?;
            Cell::List(values, shape)
        }
        _ => Cell::Other("neither number, text nor list"),
    })
}

fn number(field: &Field) -> Option<f64> {
    Some(match field {
        Field::Bool(value) => f64::from(*value),
        Field::Byte(value) => f64::from(*value),
        Field::Short(value) => f64::from(*value),
        Field::Int(value) => f64::from(*value),
        Field::Long(value) => *value as f64,
        Field::UByte(value) => f64::from(*value),
        Field::UShort(value) => f64::from(*value),
        Field::UInt(value) => f64::from(*value),
        Field::ULong(value) => *value as f64,
        Field::Float16(value) => value.to_f64(),
        Field::Float(value) => f64::from(*value),
        Field::Double(value) => *value,
        _ => return None,
    })
}

/// Appends the numbers of nested lists; `shape` is found by the first ones and held against the others.
fn flatten(field: &Field, depth: usize, values: &mut Vec<f64>, shape: &mut Vec<usize>) -> Result<()> {
    let Field::ListInternal(list) = field else {
        return match number(field) {
            Some(value) if depth == shape.len() => {
                values.push(value);
                Ok(())
            }
            _ => Diagnostic::error("data-cell", "the list does not hold numbers everywhere").err(),
        };
    };
    if depth == shape.len() && values.is_empty() {
        shape.push(list.len());
    }
    if shape.get(depth) != Some(&list.len()) {
        let cause = format!("the list has parts of {} elements beside others", list.len());
        return Diagnostic::error("data-ragged", cause).err();
    }
    list.elements().iter().try_for_each(|element| flatten(element, depth + 1, values, shape))
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, FloatType};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use std::sync::Arc;

    /// Two rows: a number, a list of two numbers, a word.
    fn file() -> Vec<u8> {
        let schema = "message m {
            required double a;
            required group v (LIST) { repeated group list { required float element; } }
            required binary kind (UTF8);
        }";
        let mut file = Vec::new();
        let properties =
            WriterProperties::builder().set_compression(parquet::basic::Compression::SNAPPY).build();
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let mut writer = SerializedFileWriter::new(&mut file, schema, Arc::new(properties)).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<DoubleType>().write_batch(&[1.0, 2.0], None, None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let levels = (Some(&[1_i16, 1, 1, 1][..]), Some(&[0_i16, 1, 0, 1][..]));
        column.typed::<FloatType>().write_batch(&[1.0, 2.0, 3.0, 4.0], levels.0, levels.1).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let words = ["x", "y"].map(ByteArray::from);
        column.typed::<ByteArrayType>().write_batch(&words, None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
        file
    }

    #[test]
    fn numbers_lists_and_words_are_read() {
        let table = read(file().into()).unwrap();
        assert_eq!(
            format!("{:?}", table.columns),
            r#"[("a", Numbers { values: [1.0, 2.0], shape: [] }), ("v", Numbers { values: [1.0, 2.0, 3.0, 4.0], shape: [2] }), ("kind", Words(["x", "y"]))]"#
        );
    }

    /// Every file cut short, and every file with one byte changed, is refused or read, and never more than that.
    #[test]
    fn damaged_files_do_not_panic() {
        let whole = file();
        for end in 0..whole.len() {
            assert_eq!(read(whole[..end].to_vec().into()).unwrap_err().code, "data-format");
        }
        for (at, by) in (0..whole.len()).flat_map(|at| [0x01, 0x55, 0x80, 0xff].map(|by| (at, by))) {
            let mut damaged = whole.clone();
            damaged[at] ^= by;
            if let Err(refused) = read(damaged.into()) {
                assert!(refused.code.starts_with("data-"), "{refused}");
            }
        }
    }
}
