// What every part of the dashboard has under it. The build puts this under each of them, so that it
// is one chunk: many small ones cost more bytes, and a request each.
import "preact";
import "preact/hooks";
import "@preact/signals";
import "./api/client";
import "./pages";
import "./parts/time";
import "./parts/toast";
import "./parts/when";
import "./state/me";
import "./state/routing";
import "./state/sockets";
import "./state/theme";
