"""What a store or a source must do, as test classes to inherit, and a clock that a test owns."""
