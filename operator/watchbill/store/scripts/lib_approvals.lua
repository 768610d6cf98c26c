-- Approvals that tasks and steps wait for, or were given.
-- uses events streams steps

local approvals_made
local function approvals()      -- made when needed: most calls have to do with none
  if approvals_made then return approvals_made end

  -- Its record keeps them; that of a step is its run's.
  local function place_of(item)
    if item.run_id then return item.run, 'approvals:' .. item.name end
    return item.task, 'approvals'
  end

  -- One approval (packed.Approval in Python): what it is for ('': the task's beginning), waiting | approved | rejected,
  -- since when and until when somebody may decide, when somebody did (ms; 0: nobody has), why, and the arguments of a
  -- call, or the prompt that waits to begin.
  local PACKED = '^([^\31]*)\31(%a+)\31(%d+)\31(%d+)\31(%d+)\31([^\31]*)\31?(.*)$'

  local function read(item)
    local found = {}
    for _, text in ipairs(split(redis.call('HGET', place_of(item)) or '', LS)) do
      local what, state, since, till, decided, why, shown = string.match(text, PACKED)
      found[#found + 1] = { what = what, state = state, since = since, till = till, decided = decided, why = why,
        shown = shown }
    end
    return found
  end

  local function write(item, all)
    local texts, key, field = {}, place_of(item)
    for i, one in ipairs(all) do
      texts[i] = table.concat({ one.what, one.state, one.since, one.till, one.decided, one.why, one.shown }, FS)
    end
    redis.call('HSET', key, field, table.concat(texts, LS))
  end

  -- Sets a task or step aside until somebody approves of one of what it asks for (`ended.detail`: what and arguments of
  -- each), or rejects it, for `ended.ttl` ms at most. It is delayed until then: nothing else is needed to end its wait.
  -- What was decided of one prompt is not of another: the beginning is asked for anew then. `h`: class, agent;
  -- `attempt`: the last that counts.
  local function await(item, h, ended, attempt)
    local all, known, till, is_new = read(item), {}, nil, false
    for _, one in ipairs(all) do known[one.what] = one end
    for _, asked in ipairs(ended.detail == '' and { '' } or split(ended.detail, LS)) do
      local what, shown = string.match(asked, '^([^\31]*)\31?(.*)$')
      local one = known[what]
      local is_other = one and what == '' and one.shown ~= '' and shown ~= '' and one.shown ~= shown
      if not one then
        one = { what = what }
        all[#all + 1] = one
      end
      if not one.state or is_other then
        one.state, one.since, one.till = 'waiting', now, int(now_ms + tonumber(ended.ttl))
        one.decided, one.why, one.shown, is_new = '0', '', shown, true
      end
      local at = one.state == 'waiting' and one.till or now      -- else somebody has decided meanwhile
      if not till or tonumber(at) < tonumber(till) then till = at end
    end
    if is_new then
      write(item, all)
      item_event(item, 'mission_help_needed', h.agent, ended.message)
    end
    local step = item.step
    if step then
      step.state, step.attempt, step.fence, step.entry, step.spent = 'approval', attempt, ended.fence, '', ended.spent
      write_step(item.steps, item.name, step)
    else
      redis.call('HSET', item.task, 'state', 'approval', 'attempt', attempt, 'fence', ended.fence, 'entry', '',
        'spent', ended.spent)
    end
    if delay(item.id, h.class, h.agent, int(tonumber(attempt) + 1), till) then ring() end
  end

  -- Whether somebody may still decide.
  local function is_open(item)
    for _, one in ipairs(read(item)) do
      if one.state == 'waiting' and tonumber(one.till) > now_ms then return true end
    end
    return false
  end

  approvals_made = { read = read, write = write, await = await, is_open = is_open }
  return approvals_made
end
