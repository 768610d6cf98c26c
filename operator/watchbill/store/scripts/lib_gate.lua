-- Which tasks of agents with limits a claim may take, and which agent gets a task of a role.
-- uses events holders limits

local gate_made
local function gate()               -- made when needed: most crews have no limits
  if gate_made then return gate_made end
  limiting().heal_all()
  local REFUSED_MOST = 200          -- entries that one claim leaves to wait
  local refused = 0                 -- how many it has

  local function pending_of(class, one, most)
    local pending = redis.pcall('XPENDING', STREAM[class], GROUP, '-', '+', most, LIMITED .. one.agent)
    return pending.err and {} or pending
  end

  -- Which agent of a role gets this task, as its next attempt; nil: none has room. One that isn't to run stays with
  -- the agent that it has. What it had by an attempt before comes free, also for itself.
  local function assign(role, id, before, has_place, wish)
    if has_place then
      limiting().vacate(before)
      if before.known ~= '0' then count(before.agent, -1) end
      before.known = '0'
      hold(id, before)
    end
    local one = limiting().choose(role)
    if wish then one = before and not role_of(before.agent) and limiting().of(before.agent) or role.members[1] end
    if not one then return nil end
    limiting().enter(one, not wish, true)
    if not wish then
      event('mission_work_assigned', '"agent_id":' .. quote(one.agent) .. ',"task_id":' .. quote(id) .. ',"message":'
        .. quote('of role ' .. role_of(role.agent)), limiting().feed_of(one.agent))
    end
    return one.agent
  end

  -- Which agent may have this entry now: that is a start, unless it isn't to run (`wish`). nil: it waits for the
  -- limits of its agent, or of those of its role, from now on; an attempt that died with its worker counts.
  local function admit(id, agent, class, entry, attempt, wish)
    local one = limiting().of(agent)
    local before = one and holder(id)
    if not one or before and (before.entry ~= entry or before.class ~= class) then return agent end
    local has_place = before and not is_limited(before.inc)    -- a dead worker's, or handed back
    if one.members then
      local given = assign(one, id, before, has_place, wish)
      if given then return given end
      has_place = false
    elseif wish or (has_place or one.held < one.most) and limiting().starts(one) > 0 then
      limiting().enter(one, not wish, not has_place)
      return agent
    end
    if has_place then
      limiting().vacate(before)
      if before.known ~= '0' then count(agent, -1) end
    end
    local made = before and tonumber(before.attempt) + (before.started ~= '0' and 1 or 0) or attempt or 1
    redis.call('XCLAIM', STREAM[class], GROUP, LIMITED .. agent, 0, entry, 'JUSTID')
    local held_as = LIMITED .. agent .. FS .. int(now_us) .. FS .. class .. FS .. entry
    redis.call('HSET', HOLDERS, id, pack_claimed(held_as, int(made), agent, false))
    limiting().wait_for(one)
    refused = refused + 1
    return nil
  end

  -- What waits in one class and may start now, the oldest first, at most `most`.
  local function ready(class, most)
    local found = {}
    for _, one in ipairs(limiting().waiting()) do
      local room = one.waits and math.min(limiting().room(one), most) or 0
      for _, p in ipairs(room > 0 and pending_of(class, one, room) or {}) do
        local ms, seq = string.match(p[1], '(%d+)-(%d+)')
        found[#found + 1] = { entry = p[1], consumer = p[2], ms = tonumber(ms), seq = tonumber(seq) }
      end
    end
    table.sort(found, function(a, b) return a.ms < b.ms or a.ms == b.ms and a.seq < b.seq end)
    for i = #found, most + 1, -1 do found[i] = nil end
    return found
  end

  -- The consumers some of whose tasks may start now.
  local function startable()
    local found = {}
    for _, one in ipairs(limiting().waiting()) do
      if one.waits and limiting().room(one) > 0 then
        one.waits = false
        for _, class in ipairs(CLASSES) do one.waits = one.waits or #pending_of(class, one, 1) > 0 end
        if one.waits then found[#found + 1] = LIMITED .. one.agent end
      end
    end
    return found
  end

  gate_made = { admit = admit, ready = ready, startable = startable, refused = function() return refused end,
    may_go_on = function(before) return refused > before and refused < REFUSED_MOST end }
  return gate_made
end
