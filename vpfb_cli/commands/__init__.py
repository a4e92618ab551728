"""One file a command: options in, a plain function of `vpfb_core` called, a result out; nothing is computed here."""
