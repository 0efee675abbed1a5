import { render } from "preact";
import "./style/tokens.css";
import "./style/kit.css";
import "./style/screens.css";
import { App } from "./app";
import { followKeys } from "./kit/palette";
import { followRoute } from "./kit/route";
import { followScheme } from "./kit/scheme";
import { whenLocked } from "./server/call";
import { follow, lock } from "./server/live";
import { followLanguage } from "./words";

followScheme();
followLanguage();
followRoute();
followKeys();
whenLocked(lock);
follow();
render(<App />, document.getElementById("page")!);
