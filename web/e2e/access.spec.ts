// Nothing for axe to find, in either theme, on the page and in everything that opens on it.

import { contentWidth, expect, painted, settled, test, violations, visit } from "./convscope";

for (const colorScheme of ["light", "dark"] as const) {
  test.describe(colorScheme, () => {
    test.use({ colorScheme });

    test("the page", async ({ explorer: page, server }) => {
      await visit(page, server, "unit=blocks.3.depthwise:7:5,5&show=weight_gradients&over=all&pins=blocks.3.depthwise:7~stem.convolution:1");
      await painted(page, "weight_gradients|blocks.3.depthwise");
      await expect(page.locator("[data-result]")).toBeVisible();
      await expect(page.locator("[data-classes] li").first()).toBeVisible();
      expect(await violations(page)).toEqual([]);
    });

    test("everything that opens", async ({ explorer: page }) => {
      for (const key of ["/", "g", "?"]) {
        await page.keyboard.press(key);
        await expect(page.getByRole("dialog")).toBeVisible();
        expect(await violations(page, "dialog"), key).toEqual([]);
        await page.keyboard.press("Escape");
        await expect(page.getByRole("dialog")).toBeHidden();
      }
      await page.locator("[data-tour=target]").click();
      await page.getByText("of a class…").first().click();
      await expect(page.locator("dialog")).toBeVisible();
      expect(await violations(page, "dialog"), "target").toEqual([]);
      await page.keyboard.press("Escape");
      await expect(page.locator("dialog")).toBeHidden();
      const opened = page.locator(":popover-open");
      for (const name of ["What am I seeing?", "Copy as code", "Save"]) {
        await page.getByRole("main").getByRole("button", { name }).click();
        // It opens empty, and is filled and put in its place a moment later.
        await expect(opened.locator("p, button, a").first()).toBeVisible();
        expect(await violations(page, ":popover-open"), name).toEqual([]);
        await page.keyboard.press("Escape");
        await expect(opened).toHaveCount(0);
      }
    });

    test("the sheet as a table, and whose image pulls how", async ({ explorer: page, server }) => {
      await page.goto(`${server.origin}/#unit=head.convolution:7&table=1&show=weights&over=all&folded=map~step`);
      await page.reload();
      await expect(page.locator("[data-table] tbody tr").first()).toBeVisible();
      await expect(page.getByRole("img", { name: /^Gradient of .* alone$/ }).first()).toBeVisible();
      expect(await violations(page)).toEqual([]);
    });

    test("one column", async ({ explorer: page }) => {
      await page.setViewportSize({ width: 800, height: 900 });
      expect(await violations(page)).toEqual([]);
      expect(await contentWidth(page)).toBeLessThanOrEqual(800);
    });
  });
}

test("no target is smaller than 24 px", async ({ explorer: page }) => {
  await settled(page);
  const small = await page.evaluate(() =>
    [...document.querySelectorAll<HTMLElement>("button, select, input, [role=treeitem]")]
      .filter((element) => element.checkVisibility() && !element.closest(".hidden") && !element.classList.contains("hidden"))
      .map((element) => {
        const { width, height } = element.getBoundingClientRect();
        const more = getComputedStyle(element, "::after");
        const grown = more.content !== "none" ? -Number.parseFloat(more.top) || 0 : 0;
        return { text: element.ariaLabel ?? element.textContent?.trim() ?? "", width, height: height + grown };
      })
      .filter(({ width, height }) => width > 0 && (width < 24 || height < 24)),
  );
  expect(small).toEqual([]);
});
