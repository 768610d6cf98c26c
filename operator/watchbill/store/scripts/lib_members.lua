-- How a step waits for those that work for it.
-- uses steps runs

-- Sets it aside until one of the steps of `ended.detail` (joined by LS) has ended. The run then puts it back, as it
-- does with a step behind others. `attempt`: the last that counts.
local function await_members(item, ended, attempt)
  local step, left = item.step, 1
  for _, name in ipairs(split(ended.detail, LS)) do
    local member = read_step(item.steps, name)
    if not member or member.finished ~= '0' then left = 0 end
  end
  step.state, step.left, step.attempt, step.fence, step.entry, step.spent = 'waiting', left, attempt, ended.fence, '',
    ended.spent
  write_step(item.steps, item.name, step)
  redis.call('HINCRBY', item.run, 'active', -1)
  local before = queued()
  local active = runs().pump(item, left == 0 and { { item.name, step } } or {})
  if queued() > before then ring() end
  if active == 0 then runs().end_run(item, tonumber(ended.ttl)) end      -- it is being cancelled
end
