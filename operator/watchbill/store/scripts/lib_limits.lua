-- Limits of agents: how many tasks of one run at once, and how often one starts, over all workers; and which agents
-- have a role, whose tasks go to whichever of them has room.
-- uses nothing
--
-- meta's `limits` (plan.limits.pack in Python) lists the agents that have limits or roles, or had some and still have
-- tasks that wait; and each role under a name of its own (ROLE in Python's names), with its agents, by their places in
-- this list. A task that waits is held by the consumer LIMITED .. agent, or LIMITED .. role, which has no lease, so
-- nobody takes it for dead: the task keeps its place in its class, its payload and its attempts. Claims take it from
-- there. Of each of these meta has
--   held:AGENT       tasks that workers hold, or handed back
--   rate:AGENT       for how long its starts fill its rate (all that a GCRA remembers), as of when, and the time
--                    between two starts then; all in us
--   limited:AGENT    there: some of its tasks may wait
-- and of all `recounted`: when `held:` was counted last, in ms.

local unable = {}               -- agents with roles that the caller can't run (lib_gate.lua)

-- Whether this consumer is one of tasks that wait for the limits of their agent.
local function is_limited(consumer) return string.sub(consumer, 1, #LIMITED) == LIMITED end

local function limiting()           -- made when needed: most crews have no limits
  if limiting_made then return limiting_made end
  local of, listed, fields = {}, {}, {}
  local roles, packed = {}, '([^\30\31]+)\31(%d*)\31(%d*)\31(%d*)\31?([%d,]*)'
  for agent, most, every, burst, members in string.gmatch(limits, packed) do
    local one = { agent = agent, most = tonumber(most) or math.huge, every = tonumber(every) or 0,
      burst = tonumber(burst) or 1 }
    if members ~= '' then roles[#roles + 1], one.members = one, split(members, ',') end
    of[agent], listed[#listed + 1] = one, one
    for _, field in ipairs({ 'held:', 'rate:', 'limited:' }) do fields[#fields + 1] = field .. agent end
  end
  fields[#fields + 1] = 'recounted'
  local known = redis.call('HMGET', META, unpack(fields))
  local recounted_ms = tonumber(known[#fields] or '0')
  for i, one in ipairs(listed) do
    one.held, one.waits = tonumber(known[3 * i - 2] or '0'), known[3 * i] and true or false
    local us, at_us, every = string.match(known[3 * i - 1] or '', '^(%d+) (%d+) (%d+)$')
    if tonumber(every) == 0 then us, at_us = nil, nil end      -- it says nothing of a rate
    at_us = tonumber(at_us or now_us)
    one.ahead = us and math.max(us * one.every / every - math.max(now_us - at_us, 0), 0) or 0
    one.is_early = at_us > now_us      -- the server's clock has gone back since
  end
  for _, role in ipairs(roles) do
    for i, place in ipairs(role.members) do
      local one = listed[tonumber(place)]
      role.members[i], one.roles = one, one.roles or {}
      one.roles[#one.roles + 1] = role
    end
  end

  -- How many of its tasks its rate lets start now, and how many may.
  local function starts(one)
    return one.every > 0 and math.floor((one.burst * one.every - one.ahead) / one.every) or math.huge
  end
  local function room_of_agent(one) return math.max(math.min(one.most - one.held, starts(one)), 0) end

  -- The agents of a role that the caller can run; all, if it can run none.
  local function able(role)
    if role.able then return role.able end
    role.able = {}
    for _, one in ipairs(role.members) do
      if not unable[one.agent] then role.able[#role.able + 1] = one end
    end
    if #role.able == 0 then role.able = role.members end
    return role.able
  end

  local function room(one)
    if not one.members then return room_of_agent(one) end
    local all = 0
    for _, member in ipairs(able(one)) do all = all + room_of_agent(member) end
    return all
  end

  -- The agent of a role that gets its next task: of those that have room the one with the fewest, and of several the
  -- one that the crew names first. nil: none has room.
  local function choose(role)
    local best
    for _, one in ipairs(able(role)) do
      if room_of_agent(one) > 0 and (not best or one.held < best.held) then best = one end
    end
    return best
  end

  -- In how many ms its rate, or that of an agent of this role, lets one more start; nil: it is not the rate that holds
  -- it.
  local function rate_ms(one)
    local least
    for _, member in ipairs(one.members and able(one) or { one }) do
      local left = member.ahead - (member.burst - 1) * member.every
      local ms = member.every > 0 and member.held < member.most and left > 0 and math.ceil(left / 1000)
      if ms and (not least or ms < least) then least = ms end
    end
    return least
  end

  -- In how many ms the rate of some agent lets one of its tasks start that waits; nil: there is none.
  local function soonest_ms()
    local least
    for _, one in ipairs(listed) do
      local ms = one.waits and rate_ms(one)
      if ms and (not least or ms < least) then least = ms end
    end
    return least
  end

  local function keep_rate(one)
    if one.every == 0 then return end
    redis.call('HSET', META, 'rate:' .. one.agent, int(one.ahead) .. ' ' .. int(now_us) .. ' ' .. int(one.every))
  end

  -- Counts anew what workers hold: a worker of the release before ends tasks and leaves `held:` as it is.
  local function recount()
    for _, one in ipairs(listed) do one.held = 0 end
    local holders = redis.call('HGETALL', HOLDERS)
    for i = 2, #holders, 2 do
      local inc, agent = string.match(holders[i], '^([^\31]*)\31.*\31([^\31]*)\31%d*$')
      local one = of[agent]
      if one and not is_limited(inc) then one.held = one.held + 1 end
    end
    for _, one in ipairs(listed) do redis.call('HSET', META, 'held:' .. one.agent, one.held) end
    redis.call('HSET', META, 'recounted', now)
    recounted_ms = now_ms
  end

  -- Does so where some agent has no place left, at most once a minute, because it looks at all holders.
  local function recount_full()
    if recounted_ms <= now_ms and now_ms - recounted_ms < 60000 then return end
    for _, one in ipairs(listed) do
      if one.held >= one.most then return recount() end
    end
  end

  -- A worker gets one of its tasks. `is_start`: that is a start; `is_more`: no worker has held it.
  local function enter(one, is_start, is_more)
    if is_more then one.held = redis.call('HINCRBY', META, 'held:' .. one.agent, 1) end
    if is_start and one.every > 0 then
      one.ahead = one.ahead + one.every
      keep_rate(one)
    end
  end

  -- A task loses its holder for good. Whether another one may wait for its place.
  local function vacate(h)
    local one = of[h.agent]
    if not one or is_limited(h.inc) then return false end
    one.held = redis.call('HINCRBY', META, 'held:' .. one.agent, -1)
    if one.held < 0 then
      one.held = 0
      redis.call('HSET', META, 'held:' .. one.agent, 0)
    end
    for _, role in ipairs(one.roles or {}) do
      if role.waits then return true end
    end
    return one.waits
  end

  limiting_made = { of = of, listed = listed, starts = starts, room = room, choose = choose, soonest_ms = soonest_ms,
    keep_rate = keep_rate, enter = enter, vacate = vacate, recount = recount, recount_full = recount_full }
  return limiting_made
end
