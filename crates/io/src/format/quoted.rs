pub(crate) use crate::quoted::Quoted;
