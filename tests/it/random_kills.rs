//! SIGKILL of one bookend or of both at a random moment: no record is lost, none is replaced.
