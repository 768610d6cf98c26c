-- Limits of agents: how many tasks of one run at once, and how often one starts, over all workers; and which agents
-- have a role, whose tasks go to whichever of them has room.
-- uses nothing
--
-- meta's `limits` (plan.limits.pack in Python) lists the agents that have limits or roles; then each role under a name
-- of its own (ROLE in Python's names), with its agents, by their places in this list; then what had some and still has
-- tasks that wait. A task that waits is held by the consumer LIMITED .. agent, or LIMITED .. role, which has no lease,
-- so nobody takes it for dead: the task keeps its place in its class, its payload and its attempts. Claims take it from
-- there. Of each of these agents meta has
--   held:AGENT       tasks that workers hold, or handed back
--   rate:AGENT       for how long its starts fill its rate (all that a GCRA remembers), as of when, and the time
--                    between two starts then; all in us
--   away:AGENT       until when a budget or a model lets it begin nothing, as of when, both in ms; the definition by
--                    which that is so; and the tokens and the money of the request that was refused, if a smaller one
--                    may go all the same (spend.lua, which knows it of agents with roles)
-- and of all `recounted`: when `held:` was counted last, in ms.
--
-- Most calls concern few of the agents and roles, and a crew may have hundreds. So each is taken apart and read when
-- something asks for it: a claim does for those whose tasks come or wait.

-- Whether this consumer is one of tasks that wait for the limits of their agent.
local function is_limited(consumer) return string.sub(consumer, 1, #LIMITED) == LIMITED end

local agents_at, feeds_at       -- where ARGV and KEYS have the agents with roles that the caller knows, and their feeds
local function know_agents(at, key) agents_at, feeds_at = at, key end

local function limiting()           -- made when needed: most crews have no limits
  if limiting_made then return limiting_made end
  local text, made = LS .. limits, {}      -- made: by name; false: it isn't listed
  local agents, waiters, feeds, unable, recounted_ms, heals

  -- The agent or role that the list has at this position.
  local function item(at)
    local name, most, every, burst, places =
      string.match(text, '^\30([^\30\31]+)\31(%d*)\31(%d*)\31(%d*)\31?([%d,]*)', at)
    made[name] = made[name] or { agent = name, most = tonumber(most) or math.huge, every = tonumber(every) or 0,
      burst = tonumber(burst) or 1, places = places ~= '' and places or nil, held = 0 }
    return made[name]
  end

  -- The agents, in order.
  local function all()
    if agents then return agents end
    agents = {}
    local at = 1
    while at do
      local one = item(at)
      if one.places then break end      -- roles follow
      agents[#agents + 1] = one
      at = string.find(text, LS, at + 1, true)
    end
    return agents
  end

  local function keep_rate(one)
    if one.every == 0 then return end
    redis.call('HSET', META, 'rate:' .. one.agent, int(one.ahead) .. ' ' .. int(now_us) .. ' ' .. int(one.every))
  end

  -- Counts anew what workers hold: a worker of the release before ends tasks and leaves `held:` as it is.
  local function recount()
    for _, one in ipairs(all()) do one.held = 0 end
    local holders = redis.call('HGETALL', HOLDERS)
    for i = 2, #holders, 2 do
      local inc, agent = string.match(holders[i], '^([^\31]*)\31.*\31([^\31]*)\31%d*$')
      local one = made[agent]
      if one and not is_limited(inc) then one.held = (one.held or 0) + 1 end
    end
    for _, one in ipairs(all()) do redis.call('HSET', META, 'held:' .. one.agent, one.held) end
    redis.call('HSET', META, 'recounted', now)
    recounted_ms = now_ms
  end

  -- Mends what a clock that has gone back, or a worker of the release before, left of these. The latter where some
  -- agent has no place left, at most once a minute, because it looks at all holders.
  local function heal(ones)
    for _, one in ipairs(ones) do
      if one.is_early then keep_rate(one) end
      if one.held >= one.most and (recounted_ms > now_ms or now_ms - recounted_ms >= 60000) then recount() end
    end
  end

  -- Reads what is known of these agents.
  local function read(ones)
    local unread, fields = {}, { 'recounted', 'def' }
    for _, one in ipairs(ones) do
      if not one.is_read then
        one.is_read = true
        unread[#unread + 1] = one
        for _, field in ipairs({ 'held:', 'rate:', 'away:' }) do fields[#fields + 1] = field .. one.agent end
      end
    end
    if #unread == 0 then return end
    local known = redis.call('HMGET', META, unpack(fields))
    recounted_ms = recounted_ms or tonumber(known[1] or '0')
    for i, one in ipairs(unread) do
      one.held = tonumber(known[3 * i] or '0')
      local us, at_us, every = string.match(known[3 * i + 1] or '', '^(%d+) (%d+) (%d+)$')
      if tonumber(every) == 0 then us, at_us = nil, nil end      -- it says nothing of a rate
      at_us = tonumber(at_us or now_us)
      one.ahead = us and math.max(us * one.every / every - math.max(now_us - at_us, 0), 0) or 0
      one.is_early = at_us > now_us      -- the server's clock has gone back since
      local until_ms, since_ms, by = string.match(known[3 * i + 2] or '', '^(%d+) (%d+) (%S*)')
      local holds = until_ms and by == known[2] and tonumber(since_ms) <= now_ms      -- by this clock and definition
      one.away_ms = holds and math.max(until_ms - now_ms, 0) or 0
    end
    if heals then heal(unread) end
  end

  -- From now on what is read is mended: the caller writes.
  local function heal_all()
    heals = true
    local ones = {}
    for _, one in pairs(made) do
      if one and one.is_read and not one.members then ones[#ones + 1] = one end
    end
    heal(ones)
  end

  local function find(name)
    if made[name] == nil then
      local at = string.find(text, LS .. name .. FS, 1, true)
      made[name] = at and item(at) or false
    end
    return made[name]
  end

  -- The agent or role of this name, with all that is known of it; nil: it isn't listed.
  local function of(name)
    local one = find(name)
    if not one then return nil end
    if one.is_read then return one end
    if one.places then
      one.members = {}
      for _, place in ipairs(split(one.places, ',')) do one.members[#one.members + 1] = all()[tonumber(place)] end
      read(one.members)
      one.is_read = true
    else
      read({ one })
    end
    return one
  end

  -- What the caller says of its agents. FS before a name: it can't run that one.
  local function hear()
    if feeds then return end
    feeds, unable = {}, {}
    for i = agents_at or #ARGV + 1, #ARGV do
      local mark, agent = string.match(ARGV[i], '^(\31?)(.*)$')
      feeds[agent] = KEYS[feeds_at + i - agents_at]
      if mark ~= '' then unable[agent] = true end
    end
  end

  local function feed_of(agent)
    hear()
    return feeds[agent]
  end

  -- Whether the caller knows an agent of this role, by its name, that it can run.
  local function can_run_any(name)
    local role = of(name)
    hear()
    for _, one in ipairs(role and role.members or {}) do
      if feeds[one.agent] and not unable[one.agent] then return true end
    end
    return false
  end

  -- How many of its tasks its rate lets start now, and how many may.
  local function starts(one)
    return one.every > 0 and math.floor((one.burst * one.every - one.ahead) / one.every) or math.huge
  end
  local function room_of_agent(one) return math.max(math.min(one.most - one.held, starts(one)), 0) end

  -- The agents of a role that may get its tasks: of those that the caller can run (of all, if it can run none) those
  -- that may begin something. If a budget or a model lets none, those that may first.
  local function able(role)
    if role.able then return role.able end
    hear()
    role.able, role.runs, role.away_ms = {}, {}, math.huge
    for _, one in ipairs(role.members) do
      if not unable[one.agent] then role.runs[#role.runs + 1] = one end
    end
    if #role.runs == 0 then role.runs = role.members end
    for _, one in ipairs(role.runs) do role.away_ms = math.min(role.away_ms, one.away_ms) end
    for _, one in ipairs(role.runs) do
      if one.away_ms == role.away_ms then role.able[#role.able + 1] = one end
    end
    return role.able
  end

  local function room(one)
    if not one.members then return room_of_agent(one) end
    local sum = 0
    for _, member in ipairs(able(one)) do sum = sum + room_of_agent(member) end
    return sum
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

  -- One of its tasks waits from now on.
  local function wait_for(one)
    one.waits = true
    if not waiters or one.is_waiter then return end
    one.is_waiter = true
    waiters[#waiters + 1] = one
  end

  -- The agents and roles of which tasks wait, or waited a moment ago: the consumers that hold these name them.
  local function waiting()
    if waiters then return waiters end
    waiters = {}
    local strangers, length_of, is_empty = {}, lengths()
    for _, class in ipairs(is_empty == 0 and {} or CLASSES) do
      local found = length_of[class] > 0 and redis.pcall('XPENDING', STREAM[class], GROUP)[4]
      for _, consumer in ipairs(found or {}) do
        if is_limited(consumer[1]) then
          local name = string.sub(consumer[1], #LIMITED + 1)
          local one = of(name) or strangers[name]
            or { agent = name, most = math.huge, every = 0, burst = 1, held = 0, ahead = 0 }
          strangers[name] = one
          wait_for(one)
        end
      end
    end
    return waiters
  end

  -- In how many ms its rate, or what holds an agent of this role, lets one more start; nil: it is nothing that passes
  -- with time.
  local function passes_ms(one)
    local least
    for _, member in ipairs(one.members and able(one) and one.runs or { one }) do
      local left = member.every > 0 and member.ahead - (member.burst - 1) * member.every or 0
      local away_ms = one.members and member.away_ms > one.away_ms and member.away_ms or 0
      local ms = member.held < member.most and math.max(math.ceil(left / 1000), away_ms) or 0
      if ms > 0 and (not least or ms < least) then least = ms end
    end
    return least
  end

  -- In how many ms time lets one more of the tasks start that wait; nil: there is none.
  local function soonest_ms()
    local least
    for _, one in ipairs(waiting()) do
      local ms = one.waits and passes_ms(one)
      if ms and (not least or ms < least) then least = ms end
    end
    return least
  end

  -- A worker gets one of its tasks. `is_start`: that is a start; `is_more`: no worker has held it.
  local function enter(one, is_start, is_more)
    if is_more then one.held = redis.call('HINCRBY', META, 'held:' .. one.agent, 1) end
    if is_start and one.every > 0 then
      one.ahead = one.ahead + one.every
      keep_rate(one)
    end
  end

  -- Whether a task waits that this agent may do.
  local function is_wanted(agent)
    for _, one in ipairs(waiting()) do
      if one.waits and one.agent == agent then return true end
      for _, member in ipairs(one.waits and one.members or {}) do
        if member.agent == agent then return true end
      end
    end
    return false
  end

  -- A task loses its holder for good. Whether that held one of its agent's places.
  local function vacate(h)
    local one = not is_limited(h.inc) and find(h.agent)
    if not one or one.places then return false end
    one.held = redis.call('HINCRBY', META, 'held:' .. one.agent, -1)
    if one.held < 0 then
      one.held = 0
      redis.call('HSET', META, 'held:' .. one.agent, 0)
    end
    return true
  end

  limiting_made = { of = of, able = able, can_run_any = can_run_any, starts = starts, room = room, choose = choose,
    waiting = waiting, wait_for = wait_for, soonest_ms = soonest_ms, enter = enter, vacate = vacate,
    is_wanted = is_wanted, feed_of = feed_of, recount = recount, heal_all = heal_all }
  return limiting_made
end
