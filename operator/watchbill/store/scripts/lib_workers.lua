-- Which workers a queue has, and what each holds. Only reads.
-- uses nothing

-- What workers.lua answers of the crew that is there.
local function workers_of()
  local holds = {}
  for _, class in ipairs(CLASSES) do
    if redis.call('EXISTS', STREAM[class]) == 1 then
      local consumers = redis.pcall('XINFO', 'CONSUMERS', STREAM[class], GROUP)
      for _, flat in ipairs(consumers.err and {} or consumers) do
        local of = {}
        for i = 1, #flat, 2 do of[flat[i]] = flat[i + 1] end
        holds[of['name']] = (holds[of['name']] or 0) + of['pending']
      end
    end
  end
  local workers = {}
  local leases = redis.call('ZRANGE', LEASES, 0, -1, 'WITHSCORES')
  for i = 1, #leases, 2 do
    local inc, until_ms, held = leases[i], tonumber(leases[i + 1]), holds[leases[i]] or 0
    if until_ms > now_ms or (until_ms > 0 and held > 0) then      -- 0: it has left, or is declared dead
      local drain = 'drain:' .. (string.match(inc, '^(.*)%.[^.]*$') or inc)
      workers[#workers + 1] = inc
      workers[#workers + 1] = held
      workers[#workers + 1] = redis.call('HGET', WORKERS, inc) or ''
      workers[#workers + 1] = redis.call('HGET', META, drain) or ''
    end
  end
  return { 'ok', now_ms, tonumber(redis.call('HGET', META, 'undrained') or '0'), workers }
end
