//! Data by name: a file or folder of any known format, a generator, or a packaged set.

use crate::bragg::BraggPeaks;
use crate::codons::Codons;
use crate::dataset::{Column, Dataset};
use crate::images::{Folder, ImageOptions};
use crate::table::{self, Table};
use crate::text::{self, Tokenizer};
use crate::{files, idx, npy, packaged};
use bytes::Bytes;
use orrery_base::diagnostic::Context;
use orrery_base::{Diagnostic, Result, nearest};
use orrery_numerics::Tensor;
use std::path::Path;
use std::str::FromStr;

/// How files are to be understood. What has no effect on a format is refused.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Columns of a table that become features, in this order; all but the target where there are none.
    pub features: Vec<String>,
    /// The column that is to be learned; of a table the last one where none is named.
    pub target: Option<String>,
    /// Whether the target holds classes or values.
    pub labels: Labels,
    /// Shape that the features of one sample get.
    pub shape: Option<Vec<usize>>,
    /// The column of a table that holds text.
    pub text: Option<String>,
    /// What cuts text into tokens, as [`Tokenizer::open`] takes it; bytes where none is named, codons for FASTA.
    pub tokenizer: Option<String>,
    /// Tokens in a sequence; without it, text cannot be read.
    pub sequence: Option<usize>,
    /// Size and colours of images in folders.
    pub images: ImageOptions,
}

/// What the target of a table holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Labels {
    /// Classes where it holds words or nothing but whole numbers, else values.
    #[default]
    Auto,
    /// Classes.
    Classes,
    /// Values.
    Values,
    /// There is no target.
    None,
}

impl Options {
    /// Keys of [`Options::set`].
    pub const KEYS: &str = "features, target, labels, shape, text, tokenizer, sequence, image-size, grey";

    /// Sets an option by its name: `features` (names with commas between them), `target`, `labels` (auto, classes,
    /// values, none), `shape` and `image-size` (as `1x8x8`), `text`, `tokenizer`, `sequence`, `grey` (true, false).
    ///
    /// # Errors
    /// `data-option` for another name or a value that it cannot have.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "features" => self.features = value.split(',').map(|name| name.trim().to_owned()).collect(),
            "target" => self.target = Some(value.to_owned()),
            "labels" => {
                self.labels = match value {
                    "auto" => Labels::Auto,
                    "classes" => Labels::Classes,
                    "values" => Labels::Values,
                    "none" => Labels::None,
                    _ => return Err(no_value(key, value)),
                }
            }
            "shape" => self.shape = Some(extents(key, value)?),
            "text" => self.text = Some(value.to_owned()),
            "tokenizer" => self.tokenizer = Some(value.to_owned()),
            "sequence" => self.sequence = Some(parse(key, value)?),
            "image-size" => match extents(key, value)?[..] {
                [rows, columns] => self.images.size = Some((rows, columns)),
                _ => return Err(no_value(key, value)),
            },
            "grey" => self.images.grey = parse(key, value)?,
            _ => return Err(no_key("data", key, Self::KEYS)),
        }
        Ok(())
    }
    /// Refuses what was set and is none of `known`, the keys that have an effect on `what`. A target has one anywhere.
    fn only(&self, what: &str, known: &[&str]) -> Result<()> {
        let set = [
            ("features", !self.features.is_empty()),
            ("labels", self.labels != Labels::Auto),
            ("shape", self.shape.is_some()),
            ("text", self.text.is_some()),
            ("tokenizer", self.tokenizer.is_some()),
            ("sequence", self.sequence.is_some()),
            ("image-size", self.images.size.is_some()),
            ("grey", self.images.grey),
        ];
        let Some((key, _)) = set.iter().find(|(key, set)| *set && !known.contains(key)) else {
            return Ok(());
        };
        let keys: Vec<&str> = known.iter().copied().chain(["target"]).collect();
        Diagnostic::error("data-option", format!("`{key}` has no effect on {what}"))
            .help(format!("what has one: {}", keys.join(", ")))
            .err()
    }
}

fn no_value(key: &str, value: &str) -> Box<Diagnostic> {
    Box::new(Diagnostic::error("data-option", format!("`{key}` cannot be `{value}`")))
}
fn no_key(of: &str, key: &str, keys: &str) -> Box<Diagnostic> {
    Box::new(
        Diagnostic::error("data-option", format!("`{key}` is no option of {of}"))
            .help(format!("the options are {keys}")),
    )
}
fn parse<T: FromStr>(key: &str, value: &str) -> Result<T> {
    value.parse().map_err(|_| no_value(key, value))
}
/// Positive extents, as `1x8x8`.
fn extents(key: &str, value: &str) -> Result<Vec<usize>> {
    let extent = |extent: &str| parse(key, extent.trim()).ok().filter(|extent| *extent > 0);
    value.split('x').map(extent).collect::<Option<_>>().ok_or_else(|| no_value(key, value))
}
/// Two numbers as `1.5..4`, or one for both.
fn pair(key: &str, value: &str) -> Result<(f64, f64)> {
    match value.split_once("..") {
        Some((low, high)) => Ok((parse(key, low)?, parse(key, high)?)),
        None => parse(key, value).map(|both| (both, both)),
    }
}

/// Names that [`open`] takes besides paths, each with its options.
pub const NAMES: [(&str, &str); 4] = [
    ("mnist-10k", "path"),
    ("digits", "path"),
    ("bragg-peaks", "n, size, seed, offset, width, mixing, amplitude, background, counts, noise, overlap"),
    ("codons", "n, seq, seed, decay"),
];

/// Opens data: one of [`NAMES`], with options as in `bragg-peaks:n=10000,noise=3,width=1.5..4`, or a path.
///
/// | what | columns |
/// | --- | --- |
/// | `.npy`, a folder of them, `.npz` | one for each array, by its name |
/// | IDX, also packed; a folder with MNIST's own training files | `x` from 0 to 1, `y` where the file of labels lies beside |
/// | CSV, JSON, JSONL, Parquet | `x` with all features, `y`; see [`Options`] |
/// | the same with [`Options::text`]; text; FASTA | `input_ids`, `labels` |
/// | a folder with a sub-folder of PNG or JPEG images for each class | `x` from 0 to 1, channels first; `y` |
///
/// # Errors
/// `data-format` where nothing knows it, and whatever its reader says.
pub fn open(name: &str, options: &Options) -> Result<Dataset> {
    let (base, given) = name.split_once(':').unwrap_or((name, ""));
    if let Some((_, keys)) = NAMES.iter().find(|(known, _)| *known == base) {
        let opened = options.only("a set by name", &[]).and_then(|()| named(base, given, keys));
        return opened.and_then(|data| with_target(data, options)).at(|| name.to_owned());
    }
    let path = Path::new(name);
    let known = NAMES.iter().map(|(known, _)| *known);
    if let Some(close) = nearest(base, known).filter(|_| !path.exists()) {
        return Diagnostic::error("file-read", format!("there is no file `{name}`, and no set of that name"))
            .help(format!("did you mean `{close}`?"))
            .err();
    }
    let opened = if path.is_dir() { folder(path, options) } else { file(path, options) };
    let place = path.display().to_string();
    let opened = opened.map(|data| data.named(place.clone())).and_then(|data| with_target(data, options));
    // Readers of one file name it themselves where they know of others.
    opened.map_err(|error| {
        if error.place.iter().any(|p| p.starts_with(&place)) { error } else { Box::new(error.at(place)) }
    })
}

/// The data with the target that was named, where the format has not made its labels of it.
fn with_target(data: Dataset, options: &Options) -> Result<Dataset> {
    match &options.target {
        Some(name) if !data.is_table() => data.labelled(name),
        _ => Ok(data),
    }
}

fn named(name: &str, given: &str, keys: &str) -> Result<Dataset> {
    let (mut bragg, mut codons, mut own) = (BraggPeaks::default(), Codons::default(), None);
    for option in given.split(',').filter(|option| !option.is_empty()) {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        match (name, key) {
            ("mnist-10k" | "digits", "path") => own = Some(value),
            ("bragg-peaks", "n") => bragg.samples = parse(key, value)?,
            ("bragg-peaks", "size") => bragg.size = parse(key, value)?,
            ("bragg-peaks", "seed") => bragg.seed = parse(key, value)?,
            ("bragg-peaks", "offset") => bragg.offset = parse(key, value)?,
            ("bragg-peaks", "width") => bragg.width = pair(key, value)?,
            ("bragg-peaks", "mixing") => bragg.mixing = pair(key, value)?,
            ("bragg-peaks", "amplitude") => bragg.amplitude = pair(key, value)?,
            ("bragg-peaks", "background") => bragg.background = pair(key, value)?,
            ("bragg-peaks", "counts") => bragg.counts = parse(key, value)?,
            ("bragg-peaks", "noise") => bragg.noise = parse(key, value)?,
            ("bragg-peaks", "overlap") => bragg.overlap = parse(key, value)?,
            ("codons", "n") => codons.samples = parse(key, value)?,
            ("codons", "seq") => codons.sequence = parse(key, value)?,
            ("codons", "seed") => codons.seed = parse(key, value)?,
            ("codons", "decay") => codons.decay = parse(key, value)?,
            _ => return Err(no_key(name, key, keys)),
        }
    }
    match name {
        "mnist-10k" => packaged::mnist(own.map(Path::new)),
        "digits" => packaged::digits(own.map(Path::new)),
        "bragg-peaks" => bragg.dataset(),
        _ => codons.dataset(),
    }
}

fn folder(path: &Path, options: &Options) -> Result<Dataset> {
    let entries = files::entries(path)?;
    let begins = |entry: &&std::path::PathBuf| {
        entry.file_name().is_some_and(|name| name.to_string_lossy().starts_with("train-images"))
    };
    if let Some(images) = entries.iter().find(begins) {
        return file(images, options);
    }
    let arrays: Vec<_> = entries.iter().filter(|entry| files::extension(entry) == "npy").collect();
    if !arrays.is_empty() {
        options.only("arrays", &[])?;
        let tensor = |path: &&std::path::PathBuf| Ok((files::stem(path), npy::open(path)?));
        let tensors: Vec<(String, Tensor)> = arrays.iter().map(tensor).collect::<Result<_>>()?;
        return Dataset::from_tensors(files::stem(path), Vec::new(), tensors);
    }
    options.only("a folder of images", &["image-size", "grey"])?;
    let Folder { images, labels, classes } = Folder::open(path, options.images)?;
    let about = vec![format!("{} images in {} classes: {}", images.len(), classes.len(), classes.join(", "))];
    let labels = Column::new("y", &Tensor::from_vec(vec![labels.len()], labels)).with_classes(classes);
    Dataset::new(files::stem(path), about, vec![Column::images("x", images), labels])
}

fn file(path: &Path, options: &Options) -> Result<Dataset> {
    let (name, extension) = (files::stem(path), files::extension(path));
    let bytes = files::read(path)?;
    if bytes.starts_with(npy::MAGIC) {
        options.only("arrays", &[])?;
        return Dataset::from_tensors(name.clone(), Vec::new(), [(name, npy::open(path)?)]);
    }
    if bytes.starts_with(b"PK\x03\x04") && extension == "npz" {
        options.only("arrays", &[])?;
        return Dataset::from_tensors(name, Vec::new(), npy::read_npz(path)?);
    }
    if bytes.starts_with(b"PAR1") || extension == "parquet" {
        return from_table(table::read_parquet(bytes)?, name, options);
    }
    if idx::is_idx(&bytes) {
        options.only("IDX files", &[])?;
        return from_idx(path);
    }
    match extension.as_str() {
        "csv" | "tsv" => from_table(table::read_csv(files::text(&bytes)?)?, name, options),
        "json" => from_table(table::read_json(files::text(&bytes)?)?, name, options),
        "jsonl" | "ndjson" => from_table(table::read_json_lines(files::text(&bytes)?)?, name, options),
        "fasta" | "fa" | "fna" | "ffn" => from_text(&bytes, name, "codons", options),
        _ if extension == "txt" || options.tokenizer.is_some() => from_text(&bytes, name, "bytes", options),
        _ => Diagnostic::error("data-format", "neither content nor name say what kind of data it is")
            .help("known are .npy, .npz, IDX, .csv, .tsv, .json, .jsonl, .parquet, .txt, .fasta, and folders")
            .help("any other file is read as text where a tokenizer is named")
            .err(),
    }
}

/// How long sequences are.
fn sequence(options: &Options) -> Result<usize> {
    options.sequence.ok_or_else(|| {
        let cause = "it is not said how many tokens a sequence has";
        Box::new(Diagnostic::error("data-option", cause).help("set `sequence`, such as 256"))
    })
}

/// Options of text.
const TEXT: &[&str] = &["tokenizer", "sequence"];

fn from_text(bytes: &Bytes, name: String, tokenizer: &str, options: &Options) -> Result<Dataset> {
    options.only("text", TEXT)?;
    let tokenizer = Tokenizer::open(options.tokenizer.as_deref().unwrap_or(tokenizer))?;
    text::pack(name, [files::text(bytes)?], |_| None, &tokenizer, sequence(options)?)
}

fn from_table(table: Table, name: String, options: &Options) -> Result<Dataset> {
    let Some(text) = &options.text else {
        options.only("a table without `text`", &["features", "labels", "shape"])?;
        return table.dataset(name, Vec::new(), options);
    };
    options.only("a table of text", &[&["text"], TEXT].concat())?;
    let tokenizer = Tokenizer::open(options.tokenizer.as_deref().unwrap_or("bytes"))?;
    let (texts, places) = table.texts(text)?;
    text::pack(
        name,
        texts.iter().map(String::as_str),
        |row| Some(places.of(row)),
        &tokenizer,
        sequence(options)?,
    )
}

/// Images with the labels beside them: MNIST's files differ by `images-idx3` and `labels-idx1` in their names.
fn from_idx(path: &Path) -> Result<Dataset> {
    let elements = idx::open(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let beside = path.with_file_name(name.replace("images", "labels").replace("idx3", "idx1"));
    let about = vec![format!("{:?} of {}", elements.shape(), path.display())];
    if elements.rank() != 3 || beside == path || !beside.is_file() {
        return Dataset::from_tensors(files::stem(path), about, [("x".to_owned(), elements)]);
    }
    let labels = idx::open(&beside)?;
    let labels =
        labels.to_i64().map_err(|error| Box::new(Diagnostic::error("data-column", error.to_string())))?;
    let (count, shape) = (elements.shape()[0], elements.shape().to_vec());
    let images = elements.reshaped(vec![count, 1, shape[1], shape[2]]);
    let classes = labels.iter().max().map_or(0, |largest| largest.unsigned_abs() as usize + 1);
    let x = Column::new("x", &images).over(255.0);
    Dataset::new(files::stem(path), about, vec![x, Column::labels("y", labels.into_owned(), classes)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Scratch;

    fn options(set: &[(&str, &str)]) -> Options {
        let mut options = Options::default();
        set.iter().for_each(|(key, value)| options.set(key, value).unwrap());
        options
    }
    /// Names, types and shapes of the columns, and the number of samples.
    fn shown(path: &Path, set: &[(&str, &str)]) -> String {
        let data = open(path.to_str().unwrap(), &options(set)).unwrap_or_else(|d| panic!("{d}"));
        let column = |c: &Column| format!("{} {}{:?}", c.name(), c.dtype(), c.shape());
        format!("{}: {}", data.len(), data.columns().iter().map(column).collect::<Vec<_>>().join(", "))
    }

    #[test]
    fn formats_are_known_by_content_and_name() {
        let scratch = Scratch::new("open");
        let csv = b"a,b,kind\n1,2,x\n3,4,y\n";
        assert_eq!(shown(&scratch.file("t.csv", csv), &[]), "2: x f32[2], y i64[]");
        assert_eq!(
            shown(&scratch.packed("t.csv.gz", csv), &[("features", "a"), ("target", "b")]),
            "2: x f32[1], y i64[]"
        );
        let jsonl = b"{\"t\": \"hello\"}\n{\"t\": \"world\"}\n";
        let text = [("text", "t"), ("sequence", "4")];
        assert_eq!(shown(&scratch.file("t.jsonl", jsonl), &text), "2: input_ids i64[4], labels i64[4]");
        let json = b"{\"x\": [[1, 2], [3, 4]], \"y\": [0.5, 1]}";
        assert_eq!(shown(&scratch.file("t.json", json), &[]), "2: x f32[2], y f32[1]");
        assert_eq!(
            shown(&scratch.file("t.txt", b"some text"), &[("sequence", "3")]),
            "3: input_ids i64[3], labels i64[3]"
        );
        let fasta = scratch.file("t.fasta", b">g\nATGAAACCC");
        assert_eq!(shown(&fasta, &[("sequence", "2")]), "1: input_ids i64[2], labels i64[2]");
        let code = scratch.file("t.rs", b"fn main() {}");
        assert_eq!(
            shown(&code, &[("sequence", "4"), ("tokenizer", "bytes")]),
            "3: input_ids i64[4], labels i64[4]"
        );
        let idx = [&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1][..], &[0, 255]].concat();
        let images = scratch.packed("m/train-images-idx3-ubyte.gz", &idx);
        assert_eq!(shown(&images, &[]), "2: x u8[1, 1]");
        scratch.packed("m/train-labels-idx1-ubyte.gz", &[0, 0, 8, 1, 0, 0, 0, 2, 1, 0]);
        assert_eq!(shown(&scratch.path("m"), &[]), "2: x f32[1, 1, 1], y i64[]");
        let tensors = [("x".to_owned(), Tensor::from_vec(vec![2, 3], vec![0_f32; 6]))];
        npy::write_npz(&scratch.path("t.npz"), &tensors).unwrap();
        assert_eq!(shown(&scratch.path("t.npz"), &[]), "2: x f32[3]");
    }

    #[test]
    fn what_cannot_be_opened_says_why() {
        let scratch = Scratch::new("cannot-open");
        let failed = |path: &Path| open(path.to_str().unwrap(), &Options::default()).unwrap_err();
        assert_eq!(failed(&scratch.file("t.xyz", b"?")).code, "data-format");
        assert_eq!(failed(&scratch.path("none.csv")).code, "file-read");
        assert_eq!(failed(&scratch.file("t.txt", b"text")).code, "data-option");
        assert_eq!(failed(&scratch.file("t.csv", b"a,b\n1,\xff\n")).code, "data-text");
        let ragged = failed(&scratch.file("r.csv", b"a,b\n1,2\n1\n"));
        assert_eq!((ragged.code, ragged.place.len()), ("data-ragged", 2), "{ragged}");
        assert!(ragged.place[0].ends_with("r.csv") && ragged.place[1] == "line 3");
        scratch.file("two/a.npy", b"");
        assert_eq!(failed(&scratch.path("two")).code, "npz-read");
    }

    #[test]
    fn options_without_an_effect_are_refused() {
        let scratch = Scratch::new("no-effect");
        let csv = scratch.file("t.csv", b"a,b,y\n1,2,0\n3,4,1\n");
        let text = scratch.file("t.txt", b"some text");
        for (name, set) in [
            (csv.to_str().unwrap(), ("sequence", "4")),
            (csv.to_str().unwrap(), ("grey", "true")),
            (text.to_str().unwrap(), ("features", "a")),
            ("codons:n=2", ("sequence", "4")),
        ] {
            let failed = open(name, &options(&[("labels", "auto"), set])).unwrap_err();
            assert_eq!(failed.code, "data-option", "{failed}");
            assert!(failed.cause.contains(&format!("`{}` has no effect on", set.0)), "{failed}");
        }
        let both = options(&[("target", "y"), ("labels", "none")]);
        assert_eq!(open(csv.to_str().unwrap(), &both).unwrap_err().code, "data-option");
    }

    #[test]
    fn labels_have_a_place_in_their_file() {
        let scratch = Scratch::new("places");
        let csv = scratch.file("t.csv", b"kind,a\ncat,2\n\ndog,4\n");
        let data = open(csv.to_str().unwrap(), &options(&[("target", "kind")])).unwrap();
        assert_eq!(data.label(), Some("y"));
        let place = [csv.to_str().unwrap(), "line 4", "column `kind`"];
        assert_eq!(data.place_of(1, "y"), place);
        assert_eq!(data.select(&[1]).place_of(0, "y"), place);
        assert_eq!(data.read("y", 1..2).unwrap().values::<i64>().unwrap().as_ref(), [1]);
    }

    #[test]
    fn generators_take_their_options() {
        let data = open("bragg-peaks:n=3,size=9,noise=0,width=2..3,seed=4", &Options::default()).unwrap();
        assert_eq!((data.len(), data.column("patch").unwrap().shape()), (3, &[1, 9, 9][..]));
        assert!(data.about()[0].contains("width 2 to 3 pixels"), "{}", data.about()[0]);
        let data = open("codons:n=2,seq=5", &Options::default()).unwrap();
        assert_eq!(data.column("labels").unwrap().shape(), [5]);
        let labelled = Options { target: Some("labels".into()), ..Options::default() };
        assert_eq!(open("codons:n=2", &labelled).unwrap().label(), Some("labels"));
        let no_column = Options { target: Some("kind".into()), ..Options::default() };
        assert_eq!(open("codons:n=2", &no_column).unwrap_err().code, "data-column");
        for name in ["codons:sequence=5", "codons:n=many", "bragg-peaks:noise"] {
            assert_eq!(open(name, &Options::default()).unwrap_err().code, "data-option");
        }
    }

    #[test]
    fn options_are_set_by_name() {
        let mut options = Options::default();
        options.set("image-size", "28x32").unwrap();
        options.set("labels", "values").unwrap();
        assert_eq!((options.images.size, options.labels), (Some((28, 32)), Labels::Values));
        for (key, value) in
            [("image-size", "28"), ("shape", "0x2"), ("labels", "some"), ("color", "1"), ("grey", "1")]
        {
            assert_eq!(options.set(key, value).unwrap_err().code, "data-option");
        }
    }
}
