// The two lines that show anybody's loop here. Code, not words: the same in every language.

export const MONITOR_EXAMPLE = `with cs.Monitor(module, optimizer, store="runs/mine", images=images) as monitor:
    for inputs, labels in loader:
        loss = criterion(module(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        monitor.log(loss=loss)`;
