"""One versioned document, and the faces it has."""
