use crate::error::ShapeError;
use crate::linalg::panels::Packed;
use crate::scalar::Scalar;
use crate::shape::Shape;

/// A matrix in a slice, to be read. Its rows lie contiguous, one after the other or `row_stride` elements
/// apart.
///
/// ```
/// use backrule_tensor::linalg::MatRef;
///
/// let x: Vec<f32> = (0..12).map(|i| i as f32).collect();
/// // Time step 1 of a batch of two samples with three steps of two features.
/// let step = MatRef::new(&x[2..], [2, 2])?.with_row_stride(6)?;
/// assert_eq!((step.row(0), step.row(1)), (&[2.0, 3.0][..], &[8.0, 9.0][..]));
/// assert_eq!(step.t().shape(), [2, 2]);
/// assert!(MatRef::new(&x[2..], [2, 2])?.with_row_stride(9).is_err()); // would end behind x
/// # Ok::<(), backrule_tensor::ShapeError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct MatRef<'a, T> {
    data: &'a [T],
    layout: Layout,
    transposed: bool,
    packed: Option<&'a Packed<T>>,
}

/// A matrix in a slice, to be written. No two rows overlap.
///
/// ```
/// use backrule_tensor::linalg::MatMut;
///
/// let mut y = [0.0_f32; 6];
/// let mut left = MatMut::new(&mut y, [2, 2])?.with_row_stride(3)?;
/// left.row_mut(1).fill(7.0);
/// assert_eq!(y, [0.0, 0.0, 0.0, 7.0, 7.0, 0.0]);
/// assert!(MatMut::new(&mut y, [2, 2])?.with_row_stride(1).is_err());
/// # Ok::<(), backrule_tensor::ShapeError>(())
/// ```
#[derive(Debug)]
pub struct MatMut<'a, T> {
    data: &'a mut [T],
    layout: Layout,
}

/// How rows lie in a slice.
#[derive(Clone, Copy, Debug)]
struct Layout {
    rows: usize,
    columns: usize,
    row_stride: usize,
}

impl Layout {
    /// Row after row, within `len` elements.
    fn new(len: usize, [rows, columns]: [usize; 2]) -> Result<Self, ShapeError> {
        Self { rows, columns, row_stride: columns }.within(len)
    }

    fn with_row_stride(self, row_stride: usize, len: usize) -> Result<Self, ShapeError> {
        if row_stride < self.columns {
            let expected = format_args!("a row stride of at least {} columns", self.columns);
            return Err(ShapeError::new("matrix", expected, row_stride));
        }
        match self.rows > 1 && self.columns > 0 {
            true => Self { row_stride, ..self }.within(len),
            false => Ok(self),
        }
    }

    /// This layout, if its last row ends within `len` elements.
    fn within(self, len: usize) -> Result<Self, ShapeError> {
        let Self { rows, columns, row_stride } = self;
        let end = match rows.checked_sub(1) {
            None => Some(0),
            Some(_) if columns == 0 => Some(0),
            Some(before) => before.checked_mul(row_stride).and_then(|start| start.checked_add(columns)),
        };
        // Products of the sizes are computed later on: they must not overflow.
        Shape::new(&[rows, columns])?;
        if end.is_some_and(|end| end <= len) {
            return Ok(self);
        }
        let expected = format_args!("the elements of [{rows}, {columns}] with a row stride of {row_stride}");
        Err(ShapeError::new("matrix", expected, format_args!("{len} elements")))
    }

    /// The elements from the first to the last.
    fn len(self) -> usize {
        match (self.rows, self.columns) {
            (0, _) | (_, 0) => 0,
            (rows, columns) => (rows - 1) * self.row_stride + columns,
        }
    }
}

impl<'a, T: Scalar> MatRef<'a, T> {
    /// All of `data`, which has as many elements as the shape.
    pub(crate) fn whole(data: &'a [T], [rows, columns]: [usize; 2]) -> Self {
        Self { data, layout: Layout { rows, columns, row_stride: columns }, transposed: false, packed: None }
    }

    /// The matrix of the first rows × columns elements of `data`, row after row.
    ///
    /// # Errors
    /// When there are fewer elements.
    pub fn new(data: &'a [T], shape: [usize; 2]) -> Result<Self, ShapeError> {
        Ok(Self { data, layout: Layout::new(data.len(), shape)?, transposed: false, packed: None })
    }

    /// The same with rows that begin `row_stride` elements apart.
    ///
    /// # Errors
    /// When rows would overlap, or the last one would end behind the data.
    pub fn with_row_stride(self, row_stride: usize) -> Result<Self, ShapeError> {
        let layout = self.layout.with_row_stride(row_stride, self.data.len())?;
        // Another matrix: a packed copy isn't of it.
        Ok(Self { layout, packed: None, ..self })
    }

    /// The same with its packed copy, if there is one: the product x Wᵀ of several rows reads that instead.
    ///
    /// It has to be [`Packed::of`] this matrix, whose elements other products still read.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn with_packed(self, packed: Option<&'a Packed<T>>) -> Result<Self, ShapeError> {
        let Layout { rows, columns, .. } = self.layout;
        match packed {
            Some(packed) if packed.shape() != [rows, columns] => {
                let expected = format_args!("[{rows}, {columns}]");
                Err(ShapeError::new("packed weight", expected, format_args!("{:?}", packed.shape())))
            }
            packed => Ok(Self { packed, ..self }),
        }
    }

    /// The transpose. Nothing is moved.
    #[must_use]
    pub fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        let Layout { rows, columns, .. } = self.layout;
        if self.transposed { [columns, rows] } else { [rows, columns] }
    }

    /// Whether this is the transpose of a matrix whose rows lie contiguous.
    pub fn is_transposed(&self) -> bool {
        self.transposed
    }

    /// From the start of one stored row to the start of the next.
    pub fn row_stride(&self) -> usize {
        self.layout.row_stride
    }

    /// Stored row `i`: of a transposed matrix, column `i`. Empty if there is no such row.
    pub fn row(&self, i: usize) -> &'a [T] {
        let Layout { rows, columns, row_stride } = self.layout;
        if i < rows && columns > 0 { &self.data[i * row_stride..][..columns] } else { &[] }
    }

    /// Its packed copy.
    pub(crate) fn packed(&self) -> Option<&'a Packed<T>> {
        self.packed
    }

    /// The elements from the first to the last.
    pub(crate) fn elements(&self) -> &'a [T] {
        &self.data[..self.layout.len()]
    }
}

impl<'a, T: Scalar> MatMut<'a, T> {
    /// All of `data`, which has as many elements as the shape.
    pub(crate) fn whole(data: &'a mut [T], [rows, columns]: [usize; 2]) -> Self {
        Self { data, layout: Layout { rows, columns, row_stride: columns } }
    }

    /// The matrix of the first rows × columns elements of `data`, row after row.
    ///
    /// # Errors
    /// When there are fewer elements.
    pub fn new(data: &'a mut [T], shape: [usize; 2]) -> Result<Self, ShapeError> {
        let layout = Layout::new(data.len(), shape)?;
        Ok(Self { data, layout })
    }

    /// The same with rows that begin `row_stride` elements apart. Elements between them aren't touched.
    ///
    /// # Errors
    /// When rows would overlap, or the last one would end behind the data.
    pub fn with_row_stride(self, row_stride: usize) -> Result<Self, ShapeError> {
        Ok(Self { layout: self.layout.with_row_stride(row_stride, self.data.len())?, ..self })
    }

    /// The same matrix for a shorter time.
    pub fn reborrow(&mut self) -> MatMut<'_, T> {
        MatMut { data: self.data, layout: self.layout }
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        [self.layout.rows, self.layout.columns]
    }

    /// From the start of one row to the start of the next.
    pub fn row_stride(&self) -> usize {
        self.layout.row_stride
    }

    /// Row `i`, to be changed. Empty if there is no such row.
    pub fn row_mut(&mut self, i: usize) -> &mut [T] {
        let Layout { rows, columns, row_stride } = self.layout;
        if i < rows && columns > 0 { &mut self.data[i * row_stride..][..columns] } else { &mut [] }
    }

    /// The elements from the first to the last, and the gaps between rows.
    pub(crate) fn into_elements(self) -> &'a mut [T] {
        &mut self.data[..self.layout.len()]
    }

    /// Whether all elements lie one after the other.
    pub(crate) fn is_contiguous(&self) -> bool {
        self.layout.rows <= 1 || self.layout.row_stride == self.layout.columns
    }
}
