import { mount } from "svelte";

import App from "./App.svelte";
import "./tokens.css";

const place = document.getElementById("page");
if (!place) throw new Error("index.html has no #page");
mount(App, { target: place });
